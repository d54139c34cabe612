"""From files of rows to masked token ids and batches."""

from lorakit.data_processing.dataset import Dataset, load_dataset, load_datasets, load_training, load_validation
from lorakit.data_processing.example import EncodedExample, Example, Message, Role, ToolCall
from lorakit.data_processing.images import IMAGE_MARK, ImageFormat
from lorakit.data_processing.shapes.row_pictures import put_marks
from lorakit.data_processing.templates.chat_format import ChatFormat
from lorakit.data_processing.tokens.sequences import Sequences

__all__ = [
    "IMAGE_MARK",
    "ChatFormat",
    "Dataset",
    "EncodedExample",
    "Example",
    "ImageFormat",
    "Message",
    "Role",
    "Sequences",
    "ToolCall",
    "load_dataset",
    "load_datasets",
    "load_training",
    "load_validation",
    "put_marks",
]
