"""The page is for this machine alone, and nothing but its files is served."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

import pytest

from medseg3d.errors import UserError
from medseg3d.viewer.server import PageServer

FILES = {"index.html": b"<p>page", "scan.nii.gz": b"voxels"}


@pytest.fixture(scope="module")
def server():
    made = PageServer(FILES)
    yield made
    made.close()


def ask(server, path="", host=None, method="GET"):
    """Status, headers and body of an answer to a request below the address of the page."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)
    connection.putrequest(method, path if path.startswith("/") else address.path + path, skip_host=True)
    connection.putheader("Host", host or address.netloc)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "content"), [("", b"<p>page"), ("index.html", b"<p>page"), ("scan.nii.gz", b"voxels")]
)
def test_the_files_of_the_page_are_served(server, path, content):
    status, headers, body = ask(server, path)
    assert (status, body) == (200, content)
    assert headers["Cache-Control"] == "no-store"


def test_a_question_for_the_head_gets_no_body(server):
    status, headers, body = ask(server, "scan.nii.gz", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")


@pytest.mark.parametrize(
    "path", ["server.py", "../index.html", "%2e%2e/index.html", "..%2findex.html", "/index.html", "/", "//etc/passwd"]
)
def test_nothing_else_is_served(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(server, host):
    assert ask(server, host=host or " ")[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8765"])
def test_the_names_of_this_machine_are_taken_at_any_port_as_through_a_tunnel(server, host):
    assert ask(server, host=host)[0] == 200


def test_another_address_of_this_machine_does_not_answer(server):
    with pytest.raises(OSError, match=r"refused|unreachable|timed out|assign"):
        socket.create_connection(("127.0.0.2", urlsplit(server.url).port), timeout=5)


def test_no_other_method_is_answered(server):
    assert ask(server, method="POST")[0] == 501


def test_addresses_cannot_be_guessed_from_each_other(server):
    other = PageServer(FILES)
    other.close()
    words = [urlsplit(each.url).path.strip("/") for each in (server, other)]
    assert words[0] != words[1]
    assert min(map(len, words)) >= 20


def test_a_closed_page_is_gone():
    server = PageServer(FILES)
    server.close()
    with pytest.raises(OSError, match="refused"):
        ask(server)


@pytest.mark.parametrize(("port", "code"), [(70000, "BAD_VALUE"), (-1, "BAD_VALUE"), (None, "PORT_TAKEN")])
def test_a_port_that_cannot_be_had_is_an_error(server, port, code):
    with pytest.raises(UserError) as caught:
        PageServer(FILES, urlsplit(server.url).port if port is None else port)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
