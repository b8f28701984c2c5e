r"""Text that anybody may have written, made fit to be shown: one line without tricks, secrets starred out.

Pure functions of text; must not know where it is from. `plain` first, then `starred`: a character that is
not seen could else split a key word. What is starred is a guess from the shape of the text: a secret that
nothing announces (`mycmd hunter2`) is not found. In doubt more is starred than need be.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

STARS = "***"

# Sequences that move the cursor or set colours and titles (ECMA-48), in whole: their rest would be litter.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?", re.S
)
# Not of a control or format category, yet shown as nothing (Default_Ignorable_Code_Point), or as a blank.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_BLANKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
_NOT_TEXT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})  # controls; bidi and zero width; surrogates; unassigned


def plain(text: str) -> str:
    """One line: line ends and tabs are blanks, other characters that are no text or not seen are left out."""
    if text.isascii() and text.isprintable():
        return text
    text = _UNSEEN.sub("", _ESCAPES.sub("", text))
    return "".join(
        " " if c in _BLANKS else c for c in text if c in _BLANKS or unicodedata.category(c) not in _NOT_TEXT
    )


_PASSWORD = r"(?:password|passwd|passphrase|passcode)"
_KEY = r"(?:secret|token|credentials?|(?:api|access|private|auth|account|signing|encryption)[_-]?key)"
# SECRET_KEY_BASE, aws_secret_access_key. Not without end: what is nothing else would take its length squared
_MORE = r"(?:[_-]?(?:key|base|value|string|hash|access[_-]?key)){0,8}+"
_VALUE = r"""(?!\*{3})(?:\\?"(?:\\.|[^"\\])*\\?"?|'[^']*'?|[^\s"']\S*)"""  # quoted, or all to the next blank
_RANDOM = (
    r"(?=\S{0,64}\d|\S{16})"  # a word that looks made up: `invalid token: unexpected end` says no secret
)

# (what is kept before it, the secret)
_SECRETS = tuple(
    re.compile(before + secret, re.I | re.S)
    for before, secret in (
        (r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----)", r".*?(?:(?=-----END )|\Z)"),
        (r"((?:proxy-)?authorization\s*[:=]\s*(?:[a-z]+\s+)?)", r"[^\s\"']+"),
        (r"(\bcookie:\s*)", r"[^\r\n\"']+"),
        (r"(\bbearer\s+)", r"(?=\S{0,64}\d|\S{20})[\w.~+/=-]{8,}"),
        # NAME=VALUE and "NAME": "VALUE"; a --NAME VALUE; NAME: VALUE, which may be prose
        (rf"((?:{_PASSWORD}|{_KEY}){_MORE}\\?[\"']?\s?=>?+\s?)", _VALUE),
        (rf"((?:{_PASSWORD}|{_KEY}){_MORE}\\?[\"']\s?:\s?)", _VALUE),
        (rf"((?<!\S)-{{1,2}}+(?!no-)[\w-]{{0,40}}?(?:{_PASSWORD}|{_KEY}){_MORE}\s+)", rf"(?!-){_VALUE}"),
        (rf"((?<!/){_PASSWORD}{_MORE}\s?:\s?)", _VALUE),
        (rf"({_KEY}{_MORE}\s?:\s?)", _RANDOM + _VALUE),
        (rf"({_KEY}{_MORE}\s(?:is\s)?)", r"(?=\S{0,64}\d)(?=\S{0,64}[a-z])[\w+/=.~-]{20,}"),
        (r"((?<![a-z])pwd\s?=\s?)", r"(?![/~.])" + _VALUE),  # not of the working directory
        (r"(://[^\s/:@]*:)", r"[^\s/]+(?=@)"),
        (r"(://)", r"(?=[^\s/:@]{0,64}\d)[^\s/:@]{16,}(?=@)"),
        # The shapes that issuers give theirs, so that they can be told
        (r"\b()", r"(?-i:(?:AKIA|ASIA)[A-Z0-9]{16})\b"),
        (r"\b()", r"(?-i:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{16,})"),
        (r"\b()", r"(?-i:xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{20,})"),
        (r"\b()", r"(?-i:eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"),  # a JSON web token
    )
)


def starred(text: str) -> str:
    """The text with what looks like a password, key or token replaced by STARS."""
    for secret in _SECRETS:
        text = secret.sub(rf"\g<1>{STARS}", text)
    return text


# program -> its options of one letter that a secret follows, or is glued to
_SHORT = {
    "curl": ("-u", "-U"),
    "ldapadd": ("-w",),
    "ldapmodify": ("-w",),
    "ldapsearch": ("-w",),
    "mariadb": ("-p",),
    "mariadb-dump": ("-p",),
    "mysql": ("-p",),
    "mysqladmin": ("-p",),
    "mysqldump": ("-p",),
    "redis-cli": ("-a",),
    "smbclient": ("-U",),
    "sshpass": ("-p",),
}
_GLUED_ONLY = {"mariadb", "mariadb-dump", "mysql", "mysqladmin", "mysqldump"}  # `-p db` asks, and uses db
_OPTION = re.compile(rf"-{{1,2}}+(?!no-)[\w-]*?(?:{_PASSWORD}|{_KEY}){_MORE}", re.I)
_ASSIGNED = re.compile(rf"([\w.-]*?(?:{_PASSWORD}|{_KEY}){_MORE}=).+", re.I | re.S)


def command(argv: Iterable[str]) -> str:
    """A command line on one line, starred word by word: here, unlike in `starred`, a blank within a secret
    does not end it."""
    said: list[str] = []
    short: tuple[str, ...] = ()
    program, secret = "", False
    for number, raw in enumerate(argv):
        word = plain(raw)
        if number == 0:
            program = word.rpartition("/")[2]
            short = _SHORT.get(program, ())
        flag = next((f for f in short if word.startswith(f) and not word.startswith("--")), "")
        if secret and not word.startswith("-"):
            said.append(STARS)
        elif flag and len(word) > 2:
            said.append(flag + STARS)
        else:
            said.append(_ASSIGNED.sub(rf"\g<1>{STARS}", word) if _ASSIGNED.fullmatch(word) else starred(word))
        secret = bool(_OPTION.fullmatch(word)) or (bool(flag) and word == flag and program not in _GLUED_ONLY)
    return starred(" ".join(said))
