"""JUnit's XML, which most CI systems show as a list of tests: one for each file."""

from __future__ import annotations

import re
import time
from xml.etree import ElementTree as ET

from losskit.cli.colour import Colour
from losskit.cli.formats import FileReport, Reporter, Summary
from losskit.cli.formats.full import text_of
from losskit.diagnostics import ERROR

# What XML 1.0 has no way to write, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Format(Reporter):
    """A test fails by errors; warnings are its output. Written at the end, because the counts stand first."""

    def start(self) -> None:
        self._started = self._last = time.perf_counter()
        self._suite = ET.Element("testsuite", name="losskit")
        self._plain = Colour("never", self.out)

    def file(self, report: FileReport) -> None:
        now = time.perf_counter()
        seconds, self._last = f"{now - self._last:.3f}", now
        case = ET.SubElement(self._suite, "testcase", classname="losskit", name=_xml(report.name), time=seconds)
        errors = [diagnostic for diagnostic in report.diagnostics if diagnostic.severity == ERROR]
        warnings = [diagnostic for diagnostic in report.diagnostics if diagnostic.severity != ERROR]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            failure = ET.SubElement(case, "failure", type=errors[0].code, message=_xml(f"{errors[0].text}{more}"))
            failure.text = "\n" + "\n".join(_xml(text_of(error, report, self._plain)) for error in errors)
        if warnings:
            output = ET.SubElement(case, "system-out")
            output.text = "\n" + "\n".join(_xml(text_of(warning, report, self._plain)) for warning in warnings)

    def finish(self, summary: Summary) -> None:
        counts = {
            "tests": str(len(self._suite)),
            "failures": str(sum(case.find("failure") is not None for case in self._suite)),
            "errors": "0",
            "time": f"{time.perf_counter() - self._started:.3f}",
        }
        suites = ET.Element("testsuites", name="losskit")
        suites.attrib.update(counts)
        self._suite.attrib.update(counts)
        suites.append(self._suite)
        ET.indent(suites)
        # In ASCII with references, so that no encoding of a stream can spoil it.
        self.out.write(ET.tostring(suites, "us-ascii", xml_declaration=True).decode("ascii") + "\n")


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
