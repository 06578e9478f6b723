"""Reports: HTML files that show a result anywhere, without a network.

Everything a page needs is inside, plotly's code included, and its content security policy forbids loading anything
else. Whatever comes from outside (names, reasons, file names) is escaped.
"""

from partita.controller.report.capacity import capacity_text as capacity_text
from partita.controller.report.capacity import write_capacity as write_capacity
from partita.controller.report.forecasts import forecasts_text as forecasts_text
from partita.controller.report.forecasts import write_forecasts as write_forecasts
from partita.controller.report.frame import POLICY as POLICY
from partita.controller.report.frame import STYLE as STYLE
from partita.controller.report.replayed import report_text as report_text
from partita.controller.report.replayed import write_report as write_report
