from conftest import ROOT

from lorakit.config.reference import reference_page
from lorakit.config.settings import Config


def test_the_page_in_the_documentation_is_the_one_the_settings_give():
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == reference_page(), "run `make docs`"


def test_every_setting_stands_on_the_page():
    page = reference_page()
    assert all(f"| `{name}`" in page for name in Config.model_fields)
