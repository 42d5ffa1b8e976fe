"""Pages of HTML in a notebook."""

import html


class HtmlPage(str):
    """A page's HTML, which notebooks show in a frame of its own: its styles
    and the notebook's do not mix."""

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self)}" sandbox="allow-scripts" '
            'title="mlxterp" '
            'style="width:100%;height:720px;border:0"></iframe>'
        )
