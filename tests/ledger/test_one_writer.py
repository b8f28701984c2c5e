"""Nothing reaches the kernel but through the ledger: read off the source of the whole package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tuned_spec

PACKAGE = Path(tuned_spec.__file__).parent
REPAIR, JOURNAL, LEDGER = "ledger/repair.py", "ledger/journal.py", "ledger/ledger.py"
REACH = "knobs/reach/"


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(PACKAGE)), node


def name(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def places(found: Iterator[tuple[str, ast.Call]]) -> set[str]:
    return {file for file, _ in found}


def test_only_the_journal_makes_receipts() -> None:
    assert places((f, c) for f, c in calls() if name(c) == "Receipt") == {JOURNAL}
    assert (
        places((f, c) for f, c in calls() if name(c) in ("replace", "convert") and "Receipt" in ast.dump(c))
        == set()
    )


def test_only_the_ledger_calls_an_adapters_write() -> None:
    """A stream's write has one argument, an adapter's two: receipt and knob."""
    found = ((f, c) for f, c in calls() if isinstance(c.func, ast.Attribute) and name(c) == "write")
    above = ((f, c) for f, c in found if not f.startswith(REACH))
    two = places((f, c) for f, c in above if len(c.args) + len(c.keywords) == 2 and not os_write(c))
    assert two == {LEDGER}


def test_only_adapters_and_repair_write_to_descriptors_of_knobs() -> None:
    writing = ((f, c) for f, c in calls() if name(c) == "open" and "O_WRONLY" in ast.dump(c))
    opened_to_write = places((f, c) for f, c in writing if ast.unparse(c.args[0]) != "os.devnull")
    assert opened_to_write == {REPAIR, f"{REACH}files.py", f"{REACH}held.py"}


def test_repair_writes_only_for_the_ledger() -> None:
    """The raw write and put_back take rows, not receipts: nobody else may call them."""
    raw = ((f, c) for f, c in calls() if name(c) == "put_back" or ast.unparse(c.func) == "repair.write")
    assert places(raw) == {REPAIR, LEDGER}


def test_only_adapters_and_repair_reach_out_to_write() -> None:
    raw = ((f, c) for f, c in calls() if ast.unparse(c.func) == "reach.write")
    assert places(raw) == {REPAIR, "knobs/adapters.py"}


def os_write(call: ast.Call) -> bool:
    """The raw writes have tests of their own."""
    return ast.unparse(call.func) in ("os.write", "repair.write", "reach.write")
