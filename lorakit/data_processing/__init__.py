"""From files of rows to masked token ids and batches."""

from lorakit.data_processing.chat_format import ChatFormat
from lorakit.data_processing.dataset import Dataset, load_dataset, load_datasets
from lorakit.data_processing.example import EncodedExample, Example, Message

__all__ = ["ChatFormat", "Dataset", "EncodedExample", "Example", "Message", "load_dataset", "load_datasets"]
