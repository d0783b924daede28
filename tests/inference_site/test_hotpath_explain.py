"""X-Explain at the HTTP end: which values it takes, who is told, and that nothing else changes."""

import gzip
import json
import time

import pytest

from tests.support.hot_server import HotServer, head, post
from tests.support.wire import chunked, request
