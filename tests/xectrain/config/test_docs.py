from xectrain.config.docs import PAGE, page


def test_the_reference_page_is_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/config.md is out of date: run `make docs`"
    assert "| `optim.lr` | `0.0003` | Peak learning rate; default 1e-4 for mae, 1e-3 for inpaint. |" in page()
