"""Files that are wrong as files. Each must come to problems that name file and line, and to nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.policy.test_load import RULE, loaded, problems, read, with_rule
from tuned_spec.errors import PolicyError
from tuned_spec.policy import document

BOMB = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.yaml:1: file: is empty"),
        ("# nothing\n", "p.yaml:1: file: is empty"),
        ("- a\n- b\n", "p.yaml:1: file: is not a mapping"),
        ("hello\n", "p.yaml:1: file: is not a mapping"),
        ("version: 1\nmode:\n\tlossy\n", "p.yaml:3: yaml: "),
        ("version: 1\nmode: [lossy\n", "p.yaml:3: yaml: "),
        ("version: 1\nrules: *x\n", "p.yaml:2: yaml: an alias"),
        (BOMB, "p.yaml:1: yaml: an anchor"),
        ("version: 1\nmode: !!python/object/apply:os.system [id]\n", "p.yaml:2: yaml: the tag"),
        ("version: 1\nmode: !lossy x\n", "p.yaml:2: yaml: the tag '!lossy'"),
        ("version: 1\n---\nversion: 1\n", "p.yaml:2: yaml: a second document"),
        ("version: 1\n? [a, b]\n: c\n", "p.yaml:2: yaml: a list or mapping as a key"),
        ("version: 1\nmode: lossy\nmode: observe\n", "p.yaml:3: 'mode': is here twice, first in line 2"),
        ("version: 1\nmode: " + "[" * 50_000, "p.yaml:2: yaml: nested deeper than 8"),
        (b"version: 1\nmode: \xff\xfe\n", "p.yaml:2: file: byte 0xff is not UTF-8"),
        ("version: 1\nmode: a\0b\n", "p.yaml:2: yaml: "),
        ("version: 1\nmode: \x1b[31m\n", "p.yaml:2: yaml: "),
        ("version: 1\n" + "#" * document.MAX_BYTES, "p.yaml:1: file: is larger than 256 KiB"),
        ("version: 2\n", "p.yaml:1: version: '2' is not known; write `version: 1`"),
        ("mode: lossy\n", "p.yaml:1: version: is missing"),
        ("version: 1\nrules: {a: b}\n", "p.yaml:2: rules: is not a list"),
        ("version: 1\nrules: [a]\n", "p.yaml:2: rules[0]: is not a mapping"),
        ("version: 1\nmode:\n", "p.yaml:2: mode: has no value"),
        ("version: 1\nmode: [a]\n", "p.yaml:2: mode: is not one value"),
        ("version: 1\n<<: {mode: lossy}\n", "p.yaml:2: <<: unknown key"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    found = problems(tmp_path, text)
    assert found[0].startswith(said), found


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeff" + RULE.replace("\n", "\r\n")).policy == loaded(tmp_path, RULE).policy


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key{i}: x\n" for i in range(10_000)),
        f"disable: [{', '.join(f'x{i}' for i in range(10_000))}]\n",
        "rules:\n- {when: [" + ", ".join(f"psi.x{i} > 1 clear 1" for i in range(5_000)) + "]}\n",
    ],
)
def test_a_flood_of_mistakes_is_cut(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, f"version: 1\n{text}")
    assert len(found) == 100
    assert any(said.endswith("and more; correct the others first") for said in found)


def test_escapes_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, 'version: 1\n"a\\e[31m": x\n')
    assert said.startswith("p.yaml:2: a\\x1b[31m: unknown key")


def test_escapes_in_values_are_refused_and_line_breaks_folded(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, with_rule(reason='"\\e[31mred"'))
    assert said.startswith("p.yaml:4: rules.one.reason: has a control character in it")
    (said,) = problems(tmp_path, with_rule(when='["psi.\\e[31m > 20 clear 1"]'))
    assert said.startswith("p.yaml:6: rules.one.when[0]: has a control character in it")
    text = with_rule(reason="|\n      Two\n      lines.")
    assert loaded(tmp_path, text).policy.rules[0].reason == "Two lines."


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for name, why in (("fifo.yaml", "not a regular file"), (".", "directory"), ("none.yaml", "No such file")):
        with pytest.raises(PolicyError, match=why):
            read(tmp_path, tmp_path / name)


def test_files_dropins_and_names(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("version: 1\n")
    with pytest.raises(PolicyError, match=r"no policy 'wbe'; did you mean web\?"):
        read(tmp_path, "wbe")
    local = tmp_path / "local"
    local.mkdir()
    (local / "a.yml").write_text("version: 1\n")
    (local / "a.yaml~").write_text("{{{")
    with pytest.raises(PolicyError, match=r"a\.yml:1: file: is not read because of its name") as caught:
        read(tmp_path, "web", local)
    assert len(caught.value.problems) == 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_list_of_problems_or_a_policy(tmp_path: Path, data: st.DataObject) -> None:
    """A good file with a piece cut out, doubled or replaced by rubbish."""
    raw = RULE.encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    rubbish = data.draw(
        st.one_of(st.binary(max_size=12), st.text(max_size=12).map(str.encode), st.just(raw[start:end] * 2))
    )
    (tmp_path / "p.yaml").write_bytes(raw[:start] + rubbish + raw[end:])
    try:
        read(tmp_path)
    except PolicyError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.file and problem.line >= 1 and problem.what
            assert "\n" not in str(problem) and str(problem).isprintable()
