"""The newest official Python clients against a real server; the environment says where it is."""

import asyncio
import os

import pytest
from e2b import AsyncSandbox, AuthenticationException, CommandExitException, NotFoundException, Sandbox
from e2b_code_interpreter import AsyncSandbox as AsyncCodeSandbox
from e2b_code_interpreter import Sandbox as CodeSandbox


@pytest.fixture
def sandbox():
    with Sandbox.create("base") as made:
        yield made


def test_a_command_has_its_output_and_status(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("exit 7")
    assert failure.value.exit_code == 7


def test_files_are_written_read_and_listed(sandbox):
    sandbox.files.write("/home/user/notes/one.txt", "first")
    assert sandbox.files.read("/home/user/notes/one.txt") == "first"
    assert [entry.name for entry in sandbox.files.list("/home/user/notes")] == ["one.txt"]
    assert sandbox.files.remove("/home/user/notes") is None
    assert not sandbox.files.exists("/home/user/notes")


def test_input_reaches_a_background_command(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "typed\n")
    assert next(out for out, _err, _pty in handle if out) == "typed\n"
    assert handle.kill()


def test_a_sandbox_is_listed_until_it_is_killed():
    sandbox = Sandbox.create("base", metadata={"suite": "python"}, timeout=60)
    found = Sandbox.list().next_items()
    assert sandbox.sandbox_id in [info.sandbox_id for info in found]
    assert sandbox.kill()
    assert not sandbox.is_running()
    assert not Sandbox.kill(sandbox.sandbox_id)


def test_code_keeps_state_and_reports_errors():
    with CodeSandbox.create() as sandbox:
        sandbox.run_code("x = 41")
        assert sandbox.run_code("x + 1").text == "42"
        assert sandbox.run_code("1 / 0").error.name == "ZeroDivisionError"
        frame = sandbox.run_code("import pandas; pandas.DataFrame({'a': [1, 2]})")
        assert frame.results[0].data == {"a": [1, 2]}


def test_any_text_is_output():
    with CodeSandbox.create() as sandbox:
        execution = sandbox.run_code("print('a\\x85b\\u2028c\\u2029d', chr(0xd800))")
        assert "".join(execution.logs.stdout) == "a\x85b\u2028c\u2029d \ufffd\n"


def test_a_wrong_key_and_an_unknown_template_are_refused():
    with pytest.raises(AuthenticationException):
        Sandbox.create("base", api_key="e2b_" + "0" * 40)
    with pytest.raises(NotFoundException):
        Sandbox.connect("i" + "0" * 20)


def test_two_at_once_without_waiting_for_each_other():
    async def both():
        first, second = await asyncio.gather(AsyncSandbox.create("base"), AsyncCodeSandbox.create())
        command, execution = await asyncio.gather(first.commands.run("hostname"), second.run_code("2 * 21"))
        await asyncio.gather(first.kill(), second.kill())
        return command.stdout.strip(), execution.text, first.sandbox_id

    hostname, value, sandbox_id = asyncio.run(both())
    assert value == "42"
    assert hostname == sandbox_id


def test_the_environment_of_a_create_reaches_commands():
    with Sandbox.create("base", envs={"GREETING": "hello"}) as sandbox:
        assert sandbox.commands.run("echo $GREETING").stdout == "hello\n"
        assert sandbox.commands.run("echo $E2B_SANDBOX_ID").stdout.strip() == sandbox.sandbox_id


assert os.environ.get("E2B_API_KEY"), "run me through tests/system/python-client.test.ts"
