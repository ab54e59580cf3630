"""What `validate` found: lines for people, JUnit XML for build servers, annotations for GitHub."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence

from quantprobe.checks.outcome import FAIL, PASS, SKIPPED, UNCHECKED, WARN, Check, FileReport
from quantprobe.report.printable import REPLACEMENT, printable

SHOWN = 5
"""Details of a check without --details."""
_SIGNS = {PASS: "ok", WARN: "WARN", FAIL: "FAIL", SKIPPED: "-", UNCHECKED: "????"}


def describe_report(report: FileReport, details: bool = False, brief: bool = False) -> Iterator[str]:
    """A file's verdict and its checks, one to a line; `brief` leaves out those that passed or were skipped."""
    width = max((len(check.name) for check in report.checks), default=0)
    yield f"{report.name}: {_verdict(report)}"
    for check in report.of_status(FAIL, UNCHECKED, WARN) if brief and not details else report.checks:
        yield f"  {_SIGNS[check.status]:<4}  {check.name:<{width}}  {check.reason}"
        if check.status in (FAIL, WARN) or details:
            yield from _details(check, width, details)


def _details(check: Check, width: int, details: bool) -> Iterator[str]:
    if len(check.details) < 2 and not details:
        return  # the reason says it already
    shown = check.details if details else check.details[:SHOWN]
    yield from (f"        {'':<{width}}{line}" for line in shown)
    if len(shown) < len(check.details):
        yield f"        {'':<{width}}... and {len(check.details) - len(shown)} more; --details lists all"


def _verdict(report: FileReport) -> str:
    counts = Counter(check.status for check in report.checks)
    words = ((FAIL, "failed"), (UNCHECKED, "could not be made"), (WARN, "warn"), (PASS, "passed"), (SKIPPED, "skipped"))
    told = ", ".join(f"{counts[status]} {word}" for status, word in words if counts[status])
    what = {PASS: "valid", WARN: "valid, with warnings", FAIL: "NOT VALID", UNCHECKED: "not validated"}
    return f"{what[report.status]} ({told})"


def junit_xml(reports: Sequence[FileReport]) -> bytes:
    """JUnit XML: a suite per file, a case per check; what could not be made is an error, a warning is output."""
    root = ElementTree.Element("testsuites", name="quantprobe validate")
    for report in reports:
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(report.name))
        suite.set("tests", str(len(report.checks)))
        for name, status in (("failures", FAIL), ("errors", UNCHECKED), ("skipped", SKIPPED)):
            suite.set(name, str(len(report.of_status(status))))
        for check in report.checks:
            case = ElementTree.SubElement(suite, "testcase", name=_clean(check.name), classname=_clean(report.name))
            case.set("time", f"{check.seconds:.3f}")
            tag = {FAIL: "failure", UNCHECKED: "error", SKIPPED: "skipped"}.get(check.status, "system-out")
            inner = ElementTree.SubElement(case, tag)
            text = "\n".join((check.reason, *check.details))
            if tag == "system-out":
                inner.text = _clean(f"{'warning: ' if check.status == WARN else ''}{text}")
            else:
                inner.set("message", _clean(check.reason))
                inner.text = _clean(text)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _clean(text: str) -> str:
    """Text that XML 1.0 can hold: names come from files, and it has no control characters and no U+FFFE or U+FFFF."""
    bad = ("\ufffe", "\uffff")
    return "".join(REPLACEMENT if letter in bad else letter for letter in printable(text))


def github_annotations(reports: Sequence[FileReport]) -> Iterator[str]:
    """One workflow command per check that failed, could not be made or warns."""
    for report in reports:
        for check in report.of_status(FAIL, UNCHECKED, WARN):
            level = "warning" if check.status == WARN else "error"
            title = _escape(f"{report.name}: {check.name}", more=True)
            yield f"::{level} file={_escape(report.path.as_posix(), more=True)},title={title}::{_escape(check.reason)}"


def _escape(text: str, more: bool = False) -> str:
    """GitHub's escapes of message and (`more`) property text."""
    escapes = {"%": "%25", "\r": "%0D", "\n": "%0A"} | ({":": "%3A", ",": "%2C"} if more else {})
    return "".join(escapes.get(letter, letter) for letter in text)
