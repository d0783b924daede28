"""A gateway behind nginx, which ends TLS as docs/nginx.conf has it: the admin, open pages and inferences by https."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.e2e.adminsite import Form
from tests.support.cluster import Server, environment, manage
from tests.support.http import get
from tests.support.ports import free_ports
from tests.support.processes import ROOT, Running, wait_until
from tests.support.waiting import PATIENCE_S

USER, PASSWORD = "operator", "a long enough password"
ACCOUNT = ("--noinput", "--username", USER, "--email", "operator@example.com")


@dataclass(frozen=True)
class Site:
    """What clients call, what ends TLS there, and the certificate by which they know it."""

    origin: str
    plain: str
    certificate: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("tls")
    directory.chmod(0o755)  # nginx's workers may be another user
    certificate, key = directory / "inference.pem", directory / "inference.key"
    make = [require_tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    secure, plain = free_ports(2)
    env = {
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "CSRF_TRUSTED_ORIGINS": f"https://localhost:{secure}",
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    gateway = Server.gateway(directory, env=env)
    manage("createsuperuser", *ACCOUNT, env=environment(directory, env)).check_returncode()
    # Its file as it is, but for the names and ports of this machine.
    config = (ROOT / "docs" / "nginx.conf").read_text()
    for documented, here in {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
        "server 127.0.0.1:8000;": f"server {gateway.url.removeprefix('http://')};",
        "inference.example.com": "localhost",
        "/etc/ssl/inference": f"{directory}/inference",
    }.items():
        assert documented in config
        config = config.replace(documented, here)
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"daemon off; {user} pid {directory}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n"
        f"fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n{config}}}\n"
    )
    command = [require_tool("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]
    with gateway, Running(command, dict(os.environ)) as proxy:
        gateway.wait_ready()

        def answers() -> bool:
            assert proxy.process.poll() is None, proxy.log
            try:
                return get(f"http://127.0.0.1:{plain}/")[0] == 301
            except OSError:
                return False

        wait_until("nginx answers", answers)
        yield Site(f"https://localhost:{secure}", f"http://localhost:{plain}", certificate)


@pytest.fixture
def session(site: Site) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.verify = str(site.certificate)
        made.trust_env = False
        yield made


def sign_in(session: requests.Session, site: Site, origin: str) -> requests.Response:
    page = session.get(f"{site.origin}/admin/login/")
    values = Form(page.text).values | {"username": USER, "password": PASSWORD, "next": "/admin/"}
    return session.post(f"{site.origin}/admin/login/", values, headers={"Origin": origin, "Referer": f"{origin}/"})


def test_an_operator_signs_in_and_the_cookies_are_for_https_alone(site: Site, session: requests.Session) -> None:
    assert "Log out" in sign_in(session, site, site.origin).text
    assert {cookie.name: cookie.secure for cookie in session.cookies} == {"csrftoken": True, "sessionid": True}
    for cookie in session.cookies:
        assert cookie.has_nonstandard_attr("HttpOnly") == (cookie.name == "sessionid")


def test_a_form_of_another_site_is_refused(site: Site, session: requests.Session) -> None:
    assert sign_in(session, site, "https://elsewhere.example").status_code == 403


def test_who_asks_without_tls_is_sent_there(site: Site) -> None:
    reply = requests.get(f"{site.plain}/stats", allow_redirects=False, timeout=PATIENCE_S)
    assert (reply.status_code, reply.headers["Location"]) == (301, "https://localhost/stats")


def test_what_is_sent_back_says_to_come_by_tls_only(site: Site, session: requests.Session) -> None:
    body = json.dumps({"request_id": "r1", "input_data": [1.0]})
    for reply in (session.get(f"{site.origin}/stats"), session.post(f"{site.origin}/infer", body)):
        assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert (reply.status_code, reply.json()["request_id"]) == (503, "r1")  # it has no workers


def test_a_page_is_told_its_figures_through_it(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.certificate))
    address = site.origin.replace("https", "wss", 1) + "/live"
    origin = Origin(site.origin)
    with connect(address, ssl=context, origin=origin, max_size=None, open_timeout=PATIENCE_S) as page:
        assert json.loads(page.recv(timeout=PATIENCE_S))["type"] == "start"
