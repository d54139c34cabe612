"""docs/settings.md, written from the settings themselves: ``python -m lorakit.config.reference``."""

from __future__ import annotations

import sys

from lorakit.config.listing import SECTIONS, Setting, settings, shown_value
from lorakit.config.trainer_arguments import OWNED

_HEAD = """# Settings

Every setting stands in `config.yaml` as `name: value`, or on the command line: those marked with a flag as
`--name value`, all of them as `--set name=value` (the value read as YAML). The command line wins over the file, and
`--set` over a flag. An unknown name, a wrong type or a value out of bounds stops the run at once, all faults in one
message.

This page is written from the settings in `lorakit/config` by `make docs`.
"""

_TAIL = """
## trainer_args

Takes every field of
[`transformers.TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments),
for example:

```yaml
trainer_args:
  lr_scheduler_type: cosine
  save_steps: 50
  save_strategy: steps
  report_to: tensorboard
```

lorakit's own defaults among them: `save_strategy: epoch`, `save_total_limit: 2`, `eval_strategy: epoch` (with a
validation file), `logging_steps: 1`, `report_to: none`, `disable_tqdm: true`. Not taken, because lorakit sets them:
"""


def reference_page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for section in SECTIONS:
        parts.append(f"\n## {section}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n")
        parts += [_row(setting) for setting in settings() if setting.section == section]
    parts.append(_TAIL + "\n" + "".join(f"- `{name}`: {remedy}\n" for name, remedy in OWNED.items()))
    return "".join(parts)


def _row(setting: Setting) -> str:
    name = f"`{setting.name}`" + (f"<br>flag `--{setting.name}`" if setting.has_flag else "")
    type_text = setting.type_text + (f", {setting.bounds_text}" if setting.bounds_text else "")
    return f"| {name} | {type_text} | `{shown_value(setting.default)}` | {setting.description} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference_page())
