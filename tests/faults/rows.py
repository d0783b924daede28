"""The fault matrix: what is done to the system, and what must still hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    fault: str
    bar: str


ROWS = {
    1: Row("`kill -9` of a worker mid-batch", "0 failed; breaker open; p99 back to ≤ 1.2 × within 5 s"),
    2: Row("the killed worker returns", "in rotation within 10 s; never more than 2 probes at once"),
    3: Row("two of three killed", "0 wrong; what one can't take gets 503 + Retry-After, p99 < 10 ms"),
    4: Row("all killed, one revived", "503 + Retry-After meanwhile; first 200 within 2 s of its being ready"),
    5: Row("SIGSTOP, later SIGCONT", "0 failed; suspected within 1 s; late answers dropped"),
    6: Row("a worker 10 × slower", "p99 ≤ 2 × within 5 s"),
    7: Row("a worker failing 30 % at random", "tripped within 5 s at 50 requests/s; < 0.1 % of clients see an error"),
    8: Row("reset, FIN in the middle, half-closed socket", "asked again once; no truncated answer delivered"),
    9: Row(
        "garbage: no protocol, wrong length, partial JSON, wrong shape, another request's id",
        "a failure of that worker; never cached, never delivered",
    ),
    10: Row(
        "an input that kills a worker",
        "at most 2 workers lost; the third arrival refused without reaching one; those beside it answered",
    ),
    11: Row("one bad item among 32 in a batch", "31 × 200, 1 × 4xx"),
    12: Row(
        "NaN, 1e999, 4,301 digits, lone surrogates, invalid UTF-8, 100,000 brackets",
        "a documented 4xx in < 50 ms, never 500; memory flat",
    ),
    13: Row("five hundred malformed requests in a row", "every breaker stays closed"),
    14: Row(
        "body over the limit, without end, not as long as it says, or a gzip bomb",
        "413 or 408; memory ≤ limit × connections",
    ),
    15: Row("1,000 clients that send a byte a second", "others' p99 ≤ 1.5 ×; the slow ones closed in time"),
    16: Row("10,000 idle keep-alive connections", "0 failed; ≤ 30 KB each; p99 ≤ 2 ×"),
    17: Row("3 × overload, then normal", "goodput ≥ 90 % of peak; refusals p99 < 10 ms; normal within 5 s"),
    18: Row("1,000 identical cold requests at once; the first one's client leaves", "1 inference; all others 200"),
    19: Row("one key is half of the traffic", "no worker > 1.5 × the mean in flight"),
    20: Row("Zipf(1.1), a worker joins or leaves", "≤ 1.2/N of the keys move; hit rate back to 95 % within 60 s"),
    21: Row(
        "the database is away, also at the start of a gateway",
        "0 failed on the last configuration; the gateway says so, and goes on by itself",
    ),
    23: Row("wall clock jumps ± 1 h", "nothing opens, sticks or expires"),
    24: Row(
        "100 config changes saved in 60 s under load",
        "0 failed; in force everywhere within 2 s; an invalid value is refused and the old one kept",
    ),
    25: Row("rolling restart of all, keep-alive clients that never retry", "0 failed of 100,000"),
    26: Row(
        "a new model version under load, and a broken one",
        "0 failed; no answer of the old version after the switch, from no cache",
    ),
    27: Row("disk full; 256 file descriptors", "0 failed of those who are connected; who comes afterwards is served"),
    28: Row(
        "10,000 clients that leave mid-request",
        "in flight back to 0; no breaker trips; ≥ 90 % of queued work dropped",
    ),
    29: Row("a worker's port taken over by another service", "checked at the handshake; no data is sent to it"),
    30: Row("soak with faults 1, 5, 17, 24 in turn", "memory and descriptors flat after warm-up; 0 wrong"),
}
