"""The templates of the page, which share the markup of a table."""

import jinja2

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("memfloor", "report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def template(name: str) -> jinja2.Template:
    """Return a template of the page or of one of its sections.

    Args:
        name: Its file, without the ending.
    """
    return _TEMPLATES.get_template(f"{name}.html")
