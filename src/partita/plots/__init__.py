"""Figures shared by reports: arrays in, a plotly figure out.

Labels that come from outside are escaped here, since plotly reads a part of HTML in them. Colours are chosen to be
told apart by everyone and to stand on light and dark ground; ink and grid take theirs from the page's style sheet.
"""

from partita.plots.attainment import attainment_figure as attainment_figure
from partita.plots.course import Course as Course
from partita.plots.course import Mark as Mark
from partita.plots.course import course_figure as course_figure
from partita.plots.dress import LOAD as LOAD
from partita.plots.dress import colour as colour
from partita.plots.dress import thin as thin
from partita.plots.forecasts import FIRST as FIRST
from partita.plots.forecasts import Fan as Fan
from partita.plots.forecasts import calibration_figure as calibration_figure
from partita.plots.forecasts import errors_figure as errors_figure
from partita.plots.forecasts import fan_figure as fan_figure
from partita.plots.occupancy import batches_figure as batches_figure
from partita.plots.occupancy import occupancy_figure as occupancy_figure
from partita.plots.occupancy import service_colours as service_colours
from partita.plots.occupancy import service_legend as service_legend
from partita.plots.rates import Scan as Scan
from partita.plots.rates import bad_rate_figure as bad_rate_figure
from partita.plots.rates import goodput_by_rate as goodput_by_rate
from partita.plots.spreads import batch_figure as batch_figure
from partita.plots.spreads import slower_figure as slower_figure
