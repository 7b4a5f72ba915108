"""The laws that every layer keeps, as one suite: `check_laws(layer)` runs it on any layer, wrapper or cell, also your
own."""

from recurra.testing.check import check_laws as check_laws
from recurra.testing.report import LawResult as LawResult
from recurra.testing.report import LawViolation as LawViolation
from recurra.testing.report import Report as Report
