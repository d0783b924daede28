"""`/stats`, `/health`, `/livez` and `/readyz` as the contract has them."""

from tests.support.doors import Door, fresh_values

BATCHES = {"total_batches": int, "avg_batch_size": float, "timeout_batches": int, "full_batches": int}
HEALTH = {
    "healthy": bool,
    "node_id": str,
    "total_requests": int,
    "cache_hits": int,
    "cache_size": int,
    "cache_hit_rate": float,
    "batch_processor": dict,
}


def test_stats_of_a_gateway(gateway: Door):
    reply = gateway.ask("GET", "/stats")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    stats = reply.json
    assert stats["total_workers"] == 2
    assert type(stats["total_workers"]) is int
    breakers = stats["circuit_breakers"]
    assert len(breakers) == 2
    for breaker in breakers:
        host, _, port = breaker["node"].rpartition(":")
        assert (host, port.isdecimal()) == ("127.0.0.1", True)
        assert breaker["state"] in ("CLOSED", "OPEN", "HALF_OPEN")
        assert type(breaker["failures"]) is int
        assert type(breaker["successes"]) is int
        assert (breaker["state"], breaker["failures"]) == ("CLOSED", 0)
    assert isinstance(stats["events"], list)
    assert {breaker["name"] for breaker in breakers} == {"worker_1", "worker_2"}


def test_stats_count_what_was_answered(gateway: Door):
    def answered(stats):
        return stats["gateway"]["hot_hits"] + sum(each["requests"] for each in stats["workers"])

    before = gateway.ask("GET", "/stats").json
    values = fresh_values()
    for _ in range(5):
        assert gateway.infer(values).status == 200
    after = gateway.ask("GET", "/stats").json
    assert after["gateway"]["requests"] == before["gateway"]["requests"] + 5
    assert answered(after) == answered(before) + 5


def test_health_of_a_worker(worker: Door):
    health = worker.ask("GET", "/health").json
    for key, kind in HEALTH.items():
        assert isinstance(health[key], kind), key
    for key, kind in BATCHES.items():
        assert isinstance(health["batch_processor"][key], kind), key
    assert health["healthy"] is True
    assert {health["node_id"]} == worker.nodes
    assert 0.0 <= health["cache_hit_rate"] <= 1.0


def test_health_counts_what_was_answered(worker: Door):
    before = worker.ask("GET", "/health").json
    values = fresh_values()
    for _ in range(4):
        assert worker.infer(values).status == 200
    after = worker.ask("GET", "/health").json
    assert after["total_requests"] - before["total_requests"] == 4
    assert after["cache_hits"] - before["cache_hits"] == 3
    assert after["cache_size"] - before["cache_size"] == 1
    assert after["batch_processor"]["total_batches"] - before["batch_processor"]["total_batches"] == 1
    assert abs(after["cache_hit_rate"] - after["cache_hits"] / after["total_requests"]) < 1e-3


def test_health_of_a_gateway(gateway: Door):
    reply = gateway.ask("GET", "/health")
    assert reply.status == 200
    health = reply.json
    assert (health["healthy"], health["total_workers"], health["routable_workers"]) == (True, 2, 2)


def test_live_and_ready(door: Door):
    for path in ("/livez", "/readyz"):
        for method in ("GET", "HEAD"):
            from tests.support.wire import Wire, request

            with Wire.to(door.url) as client:
                client.send(request(method, path))
                assert client.read(bodiless=method == "HEAD").status == 200
    assert door.ask("GET", "/readyz").json["ready"] is True


def test_odd_headers_do_not_change_what_is_reported(door: Door):
    for accept in ("image/png", "garbage", ""):
        reply = door.ask("GET", "/health", None, [f"Accept: {accept}"])
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
