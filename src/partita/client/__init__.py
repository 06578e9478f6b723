"""Log requests from a gateway into the database, from async and from plain code."""

from partita.client.columns import Status as Status
from partita.client.sender import AsyncRequestLog as AsyncRequestLog
from partita.client.sender import LogReport as LogReport
from partita.client.threaded import RequestLog as RequestLog
