"""Checks of the owner's own: which are any, and what an answer is worth."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _health, _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import Command, Http, Page, Tcp, UserCheck

TCP: dict[str, Any] = {"name": "dns", "kind": "tcp", "port": 53}
HTTP: dict[str, Any] = {"name": "page", "kind": "http", "url": "http://localhost/"}
COMMAND: dict[str, Any] = {"name": "zone", "kind": "command", "argv": ["unbound-control", "status"]}


def parsed(given: dict[str, Any], **more: Any) -> UserCheck:
    (check,) = _user_checks.parse([{**given, **more}])
    return check


def test_a_check_that_says_little_has_the_defaults_that_are_documented():
    check = parsed(TCP)
    assert check == UserCheck("dns", Tcp("localhost", 53), "host", None, 10, 0, 1)
    assert parsed(HTTP).what == Http("http://localhost/", (200,))
    assert parsed(COMMAND).what == Command(("unbound-control", "status"), 0)
    assert _user_checks.parse(None) == _user_checks.parse([]) == ()


def test_numbers_may_be_words():
    check = parsed(TCP, port="53", timeout="2.5", retries="3", interval="0")
    assert (check.what, check.timeout, check.retries, check.interval) == (Tcp("localhost", 53), 2.5, 3, 0)
    assert parsed(HTTP, status="204", validate_certs="no").what == Http(
        "http://localhost/", (204,), validate_certs=False
    )
    assert parsed(HTTP, status=[200, "301"]).what == Http("http://localhost/", (200, 301))
    assert parsed(COMMAND, argv=["sleep", 1], rc="3").what == Command(("sleep", "1"), 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({**TCP, "port": None}, "the check dns has port None. A port is"),
        ({"name": "dns", "kind": "tcp"}, "the check dns has no port. A port is"),
        ({**TCP, "port": 0}, "has port 0"),
        ({**TCP, "port": 65536}, "has port 65536"),
        ({**TCP, "port": 53.5}, "has port 53.5"),
        ({**TCP, "port": True}, "has port True"),
        ({**TCP, "port": "ssh"}, "has port 'ssh'"),
        ({**TCP, "prot": 53}, "has an option 'prot', which is none. A check of kind tcp knows name, kind, from, "),
        ({**TCP, "url": "http://x"}, "has an option 'url', which is none. A check of kind tcp knows"),
        ({**TCP, "from": "controller"}, "the check dns has no host. Say to which"),
        ({**TCP, "from": "moon"}, "has from 'moon'"),
        ({**TCP, "level": "nice"}, "has level 'nice'"),
        ({**TCP, "timeout": 0}, "has timeout 0"),
        ({**TCP, "timeout": "nan"}, "has timeout 'nan'"),
        ({**TCP, "retries": -1}, "has retries -1"),
        ({**TCP, "retries": 1.5}, "has retries 1.5"),
        ({**TCP, "interval": 601}, "has interval 601"),
        ({**TCP, "kind": "udp"}, "has kind 'udp'. Its kind is one of tcp, http, command."),
        ({"name": "dns"}, "the check dns has no kind"),
        ({"kind": "tcp", "port": 53}, "the check in place 1 has no name"),
        ({**TCP, "name": " "}, "the check in place 1 has name ' '"),
        ({**HTTP, "url": "localhost"}, "the check page has url 'localhost'"),
        ({**HTTP, "url": "ftp://localhost"}, "has url"),
        ({**HTTP, "url": "http://"}, "has url"),
        ({**HTTP, "url": "http://a b/"}, "has url"),
        ({**HTTP, "url": "http://a:port/"}, "has url"),
        ({**HTTP, "url": "http://[::1/"}, "has url"),
        ({"name": "page", "kind": "http"}, "the check page has no url"),
        ({**HTTP, "status": "ok"}, "has status 'ok'"),
        ({**HTTP, "status": []}, "has status []"),
        ({**HTTP, "status": [200, 1000]}, "has status [200, 1000]"),
        ({**HTTP, "body": "("}, "has body '('. It is no regular expression"),
        ({**HTTP, "json": ""}, "has json ''"),
        ({**HTTP, "validate_certs": "maybe"}, "has validate_certs 'maybe'"),
        ({**COMMAND, "argv": "rm -rf /"}, "the check zone has argv 'rm' and other words. It is a list of words"),
        ({**COMMAND, "argv": []}, "has argv []"),
        ({**COMMAND, "argv": [["x"]]}, "has argv [['x']]"),
        ({**COMMAND, "argv": ["A=b", "sh"]}, "has argv 'A=b' and other words"),
        ({**COMMAND, "argv": ["", "sh"]}, "has argv"),
        ({**COMMAND, "rc": 256}, "has rc 256"),
        ("dns", "checks has 'dns' in place 1"),
    ],
)
def test_a_check_that_is_none_is_named_with_what_is_wrong_with_it(given, says):
    with pytest.raises(LabError) as raised:
        _user_checks.parse([given])
    assert says in str(raised.value)
    assert str(raised.value).startswith("checks")
    assert raised.value.remedy


def test_names_are_names_of_one_check():
    with pytest.raises(LabError, match="checks has more than one check dns"):
        _user_checks.parse([TCP, HTTP, {**TCP, "port": 54}])
    with pytest.raises(LabError, match="It is a list of checks"):
        _user_checks.parse({"dns": TCP})


def test_a_password_in_a_url_is_not_repeated():
    check = parsed(HTTP, url="http://me:hunter2@localhost/?token=hunter2")
    told = [
        _user_checks.judge(check, Page(503, "")),
        _user_checks.judge(check, Page(200, "")),
        _user_checks.no_answer(check, "fail", "http://me:hunter2@localhost refused."),
    ]
    assert "hunter2" not in str([one.as_result() for one in told])
    for wrong in ({"url": "gopher://me:hunter2@localhost"}, {"status": "odd", "url": "http://me:hunter2@localhost"}):
        with pytest.raises(LabError) as raised:
            parsed(HTTP, **wrong)
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "page", "status"),
    [
        ({}, Page(200, ""), "ok"),
        ({}, Page(204, ""), "fail"),
        ({}, Page(302, ""), "fail"),
        ({"status": [200, 302]}, Page(302, ""), "ok"),
        ({"status": 404}, Page(404, ""), "ok"),
        ({"body": "^all well$"}, Page(200, "all well"), "ok"),
        ({"body": "well"}, Page(200, "all is well!"), "ok"),
        ({"body": "well"}, Page(200, "all is lost!"), "fail"),
        ({"body": "well"}, Page(500, "all is well!"), "fail"),
        ({"body": "well"}, Page(200, None), "unknown"),
        ({"body": "well"}, Page(500, None), "fail"),
        ({}, Page(200, None), "ok"),
    ],
)
def test_a_page_is_well_with_its_status_and_its_body(wanted, page, status):
    check = _user_checks.judge(parsed(HTTP, **wanted), page)
    assert (check.name, check.status) == ("check:page", status)
    assert check.message.startswith("The check page: ")


def done(rc: int, stderr: str = "", timed_out: bool = False) -> Completed:
    return Completed(("env",), rc, "", stderr, timed_out)


@pytest.mark.parametrize(
    ("rc", "ended", "status"),
    [
        (0, done(0), "ok"),
        (0, done(1), "fail"),
        (3, done(3), "ok"),
        (3, done(0), "fail"),
        (0, done(127), "unknown"),
        (0, done(126), "unknown"),
        (127, done(127), "ok"),
        (0, done(124, timed_out=True), "unknown"),
        (124, done(124, timed_out=True), "unknown"),
    ],
)
def test_a_program_is_well_with_its_exit_code_and_unknown_when_it_cannot_be_run(rc, ended, status):
    assert _user_checks.judge(parsed(COMMAND, rc=rc), ended).status == status


def test_what_a_program_complains_of_is_told():
    check = _user_checks.judge(parsed(COMMAND), done(1, "error: no zone\nbye\n"))
    assert check.message == "The check zone: unbound-control ends with exit code 1, and not 0: error: no zone."


@pytest.mark.parametrize(
    ("found", "status"),
    [
        *[(True, "ok"), (1, "ok"), ("up", "ok"), ([0], "ok"), ({"a": None}, "ok")],
        *[(False, "fail"), (None, "fail"), (0, "fail"), ("", "fail"), ([], "fail"), ({}, "fail")],
    ],
)
def test_json_is_well_with_an_expression_that_gives_something(found, status):
    check = _user_checks.value(parsed(HTTP, json="state"), found)
    assert check.status == status
    assert check.message.startswith("The check page: state of http://localhost/ is ")


def test_what_an_expression_gives_is_not_told_at_length():
    assert len(_user_checks.value(parsed(HTTP, json="state"), "x" * 10000).message) < 250


def test_the_level_of_a_check_is_its_own_and_the_name_in_levels_wins():
    checks = [parsed(TCP, level="wanted"), parsed(HTTP), parsed(COMMAND, level="required")]
    own = _user_checks.levels(checks)
    found = [_user_checks.no_answer(check, "fail", "no.") for check in checks]

    def graded(levels: dict[str, object]) -> list[str]:
        return [check.level for check in _health.graded(found, {**own, **_health.levels(levels)})]

    assert graded({}) == ["wanted", "required", "required"]
    assert graded({"check": "wanted"}) == ["wanted", "wanted", "required"]
    assert graded({"check:dns": "required", "check:zone": "wanted"}) == ["required", "required", "wanted"]


@pytest.mark.parametrize("given", [{**TCP, "from": "controller", "host": "x"}, {**HTTP, "json": "state"}])
def test_the_module_alone_refuses_what_only_the_controller_does(given):
    with pytest.raises(LabError, match="without its action plugin"):
        _user_checks.for_the_host([parsed(given)])
    assert _user_checks.for_the_host([parsed(TCP)])


def test_the_time_that_checks_may_take_counts_every_attempt():
    assert parsed(TCP, timeout=4, retries=2, interval=3).seconds == 21
    # a program may have to be killed
    assert parsed(COMMAND, timeout=4).seconds == 15
