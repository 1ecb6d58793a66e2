"""What the newest official Python client added since August 2026, against a real server."""

import time
import uuid

import httpx
import pytest
from e2b import (
    FileType,
    GuestUnresponsiveException,
    Sandbox,
    SandboxException,
    ServiceBusyException,
)


@pytest.fixture
def sandbox():
    with Sandbox.create("base", timeout=120) as made:
        yield made


def boot_id(sandbox):
    return sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout


def test_one_idempotency_key_makes_one_sandbox():
    key = str(uuid.uuid4())
    first = Sandbox.create("base", timeout=60, idempotency_key=key)
    again = Sandbox.create("base", timeout=60, idempotency_key=key)
    assert again.sandbox_id == first.sandbox_id
    with pytest.raises(SandboxException):
        Sandbox.create("base", timeout=61, idempotency_key=key)
    assert first.kill()


def test_a_pause_of_files_alone_boots_anew(sandbox):
    before = boot_id(sandbox)
    sandbox.files.write("/home/user/kept", "kept")
    sandbox.pause(mode="filesystem")
    resumed = Sandbox.connect(sandbox.sandbox_id)
    assert boot_id(resumed) != before
    assert resumed.files.read("/home/user/kept") == "kept"


def test_a_resume_by_reboot_leaves_the_memory_behind(sandbox):
    pid = sandbox.commands.run("sleep 600", background=True).pid
    sandbox.files.write("/home/user/kept", "kept")
    sandbox.pause()
    resumed = Sandbox.connect(sandbox.sandbox_id, on_resume="reboot")
    assert pid not in [process.pid for process in resumed.commands.list()]
    assert resumed.files.read("/home/user/kept") == "kept"


def test_a_sandbox_whose_agent_does_not_answer_comes_back_by_a_reboot(sandbox):
    stop = "(sleep 0.3; pkill -STOP -f [e]nvd.mjs) >/dev/null 2>&1 &"
    sandbox.commands.run(stop, user="root")
    time.sleep(1)
    with pytest.raises(ServiceBusyException):
        sandbox.pause(strict=True)
    sandbox.pause()
    assert Sandbox.get_info(sandbox.sandbox_id).envd_unresponsive_at_pause
    with pytest.raises(GuestUnresponsiveException):
        Sandbox.connect(sandbox.sandbox_id)
    resumed = Sandbox.connect(sandbox.sandbox_id, on_resume="reboot")
    assert resumed.commands.run("echo back").stdout == "back\n"


def test_a_service_that_speaks_tls_is_reached_at_its_port():
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        " -subj /CN=inside -keyout /tmp/pem -out /tmp/cert 2>/dev/null; cat /tmp/cert >> /tmp/pem"
    )
    serve = (
        "import http.server, ssl\n"
        "server = http.server.HTTPServer(('0.0.0.0', 8443), http.server.SimpleHTTPRequestHandler)\n"
        "context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)\n"
        "context.load_cert_chain('/tmp/pem')\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\n"
        "server.serve_forever()\n"
    )
    with Sandbox.create("base", network={"https_ports": [8443]}) as sandbox:
        sandbox.commands.run(make)
        sandbox.files.write("/home/user/serve.py", serve)
        sandbox.commands.run("python3 serve.py", background=True)
        for _attempt in range(50):
            answer = httpx.get(f"https://{sandbox.get_host(8443)}/serve.py")
            if answer.status_code == 200:
                break
            time.sleep(0.1)
        assert answer.text == serve


def test_network_settings_are_shown_as_they_were_given():
    network = {
        "allow_out": ["*.example.com"],
        "deny_out": ["0.0.0.0/0"],
        "dns_servers": ["9.9.9.9"],
        "https_ports": [8443],
        "rules": {"*.example.com": [{"transform": {"headers": {"X-Key": "value"}}}]},
        "egress_proxy": {"address": "8.8.8.8:1080", "tls": {"server_name": "proxy.example"}},
    }
    with Sandbox.create("base", network=network) as sandbox:
        shown = sandbox.get_info().network
        assert shown["dns_servers"] == ["9.9.9.9"]
        assert shown["https_ports"] == [8443]
        assert list(shown["rules"]) == ["*.example.com"]
        assert shown["egress_proxy"]["tls"]["server_name"] == "proxy.example"


def test_links_are_told_from_what_they_lead_to(sandbox):
    sandbox.files.write("/home/user/file", "text")
    sandbox.commands.run("ln -s file link")
    entries = {entry.name: entry for entry in sandbox.files.list("/home/user")}
    assert (entries["link"].type, entries["link"].symlink_target) == (FileType.SYMLINK, "/home/user/file")
    assert entries["file"].type == FileType.FILE


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_input_streams_over_both_versions_of_http(version):
    with Sandbox.create("base", http_version=version) as sandbox:
        handle = sandbox.commands.run("cat", background=True, stdin=True)
        for number in range(20):
            sandbox.commands.send_stdin(handle.pid, f"{number}\n")
        sandbox.commands.close_stdin(handle.pid)
        assert handle.wait().stdout == "".join(f"{number}\n" for number in range(20))
