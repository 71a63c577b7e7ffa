"""Keeps validation results, and shows them as a static site.

Great Expectations renders each page; the frame around it is ours, because the stock one loads
scripts and styles from nine foreign servers whenever somebody looks, and its index is rebuilt from
every result ever kept. Here a run costs its own page and one index, whatever came before. Pages
need no network and no script.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from evergreen.disk import write_whole
from evergreen.errors import ConfigError

if TYPE_CHECKING:
    from upath import UPath

# What is made of the delivered tables.
_DERIVED = ("features", "predictions")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #2e7d4f; --bad: #c0392b; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
a { color: inherit; } h1 { font-size: 1.4rem; } h5 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
h6 { margin: .6rem 0; font-size: 1rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { background: var(--soft); font-weight: 600; white-space: nowrap; }
/* The suite has no page of its own to lead to. */
.alert a, .card a { text-decoration: none; pointer-events: none; }
[hidden] { display: none; }
.badge, code, pre { background: var(--soft); border-radius: .3rem; padding: .05rem .35rem; }
.alert, .card { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; }
.text-success, .ok { color: var(--ok); } .text-danger, .bad { color: var(--bad); }
.fa-check-circle::before { content: "\\2714"; } .fa-times::before { content: "\\2718"; }
.fa-exclamation-triangle::before { content: "\\26A0"; } i { font-style: normal; }
.ge-section ul { margin: 0; padding-left: 1.1rem; } .none { opacity: .45; }
"""

_PAGE = (
    """<!DOCTYPE html><html lang="en"><head><meta charset="UTF-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ heading | e }}</title><style>"""
    + _STYLE
    + """</style></head><body>
<p><a href="../index.html">All validations</a></p><h1>{{ heading | e }}</h1>
{% for section in sections %}{% set section_loop = loop -%}{% include 'section.j2' %}{% endfor %}
</body></html>
"""
)


class _PageView(DefaultJinjaPageView):
    """Great Expectations' own view, with our frame in place of `page.j2`."""

    _template = "evergreen_page.j2"

    def __init__(self) -> None:
        super().__init__()
        ours = jinja2.DictLoader({self._template: _PAGE})
        self.env.loader = jinja2.ChoiceLoader([ours, self.env.loader])


@cache
def _page_view() -> _PageView:
    """Compile the templates once per process."""
    return _PageView()


def keep(
    result: ExpectationSuiteValidationResult, *, folder: UPath, suite: str, run_name: str
) -> tuple[UPath, UPath]:
    """Keep one result and show it.

    Parameters
    ----------
    result
        With `meta["run_id"]["run_name"]`.
    folder
        `<quality>/<use_case>`.
    suite, run_name
        What was validated and for which day or days. A later result of the same run replaces the
        earlier one: it is about the data that was published in the end.

    Returns
    -------
    tuple of UPath
        The result (JSON) and its page (HTML).

    Raises
    ------
    ConfigError
        The run's name cannot be a file name.

    Notes
    -----
    Safe with several processes at once, wherever they run. Cost: one page; the index is `O(runs)`
    lines of text.
    """
    if not re.fullmatch(r"\w[\w.+-]*", run_name):
        raise ConfigError(
            f"The run is named {run_name!r}; expected letters, digits and ._+- only, because it "
            "names files."
        )
    stored = folder / "validations" / suite / f"{run_name}.json"
    page = folder / "data_docs" / suite / f"{run_name}.html"
    content = result.to_json_dict()
    write_whole(stored, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(result)
    heading = f"{folder.name}: {suite} of {run_name}"
    write_whole(page, _page_view().render(document, heading=heading).encode())
    update_index(folder, suite, run_name, _summary(content))
    return stored, page


def update_index(folder: UPath, suite: str, run_name: str, summary: list[int]) -> None:
    """Enter one result, `[passed, judged]`, into the site's index."""
    entries, known = folder / "index", _listed(folder)
    if not known:
        # It was lost, or is from before it was kept in this way.
        for stored in sorted((folder / "validations").glob("*/*.json")):
            _enter(
                folder, stored.stem, stored.parent.name, _summary(json.loads(stored.read_text()))
            )
        known = _listed(folder)
    _enter(folder, run_name, suite, summary)
    for entry in known:
        if entry[:2] == (run_name, suite) and entry[2] != summary:
            (entries / _name_of(*entry)).unlink(missing_ok=True)
    # Whoever writes last has seen all entries, so none gets lost and nobody needs a lock.
    shown, found = None, _read_index(folder)
    while shown != found:
        write_whole(folder / "data_docs" / "index.html", _index_page(folder.name, found).encode())
        shown, found = found, _read_index(folder)


def _summary(content: Mapping[str, Any]) -> list[int]:
    statistics = content["statistics"]
    return [statistics["successful_expectations"], statistics["evaluated_expectations"]]


def _name_of(run: str, suite: str, summary: list[int]) -> str:
    # Neither a run nor a suite has a `~` in its name.
    return f"{run}~{suite}~{summary[0]}~{summary[1]}"


def _enter(folder: UPath, run: str, suite: str, summary: list[int]) -> None:
    # Only the name says something: listing them is cheaper than reading them.
    write_whole(folder / "index" / _name_of(run, suite, summary), b"\n")


def _listed(folder: UPath) -> list[tuple[str, str, list[int]]]:
    try:
        names = sorted(path.name for path in (folder / "index").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        # On an object store a folder without files is none.
        return []
    parts = (name.split("~") for name in names if not name.startswith("."))
    return [(run, suite, [*map(int, counts)]) for run, suite, *counts in parts]


def _read_index(folder: UPath) -> dict[str, dict[str, list[int]]]:
    """Read the index: by run and suite, what passed of what was judged."""
    read: dict[str, dict[str, list[int]]] = {}
    for run, suite, summary in _listed(folder):
        read.setdefault(run, {})[suite] = summary
    return read


def _index_page(title: str, runs: Mapping[str, Mapping[str, list[int]]]) -> str:
    def cell(run: str, suite: str) -> str:
        if suite not in runs[run]:
            return '<td class="none">·</td>'
        passed, judged = runs[run][suite]
        good = passed == judged and judged > 0
        mark, shade = ("✔", "ok") if good else ("✘", "bad")
        link = html.escape(f"{suite}/{run}.html")
        return f'<td><a class="{shade}" href="{link}">{mark} {passed} of {judged}</a></td>'

    found = {*_DERIVED, *(suite for of in runs.values() for suite in of)}
    suites = sorted(found, key=lambda suite: (suite in _DERIVED, suite))
    head = "".join(f"<th>{html.escape(suite)}</th>" for suite in suites)
    lines = "\n".join(
        f"<tr><td>{html.escape(run)}</td>{''.join(cell(run, suite) for suite in suites)}</tr>"
        for run in sorted(runs, reverse=True)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="UTF-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}: validations</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}: validations</h1>\n<table><thead><tr><th>run</th>{head}</tr>"
        f"</thead><tbody>\n{lines}\n</tbody></table></body></html>\n"
    )
