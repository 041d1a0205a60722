import pwd
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_sysinfo import host
from orbit_sysinfo.host import (
    CpuMeter,
    Hardware,
    cpu_seconds,
    parse_cpuinfo,
    read_network,
    read_system,
)

X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7763\ncpu MHz\t: 2445.4\n"
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800.0MHz\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t:\nHardware\t: Grace\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param(X86, ("AMD EPYC 7763", "AuthenticAMD"), id="x86"),
        pytest.param(POWER, ("POWER9, altivec supported", ""), id="power"),
        pytest.param(ARM, ("Grace", ""), id="arm"),
        pytest.param("", ("", ""), id="empty"),
    ],
)
def test_the_processors_name_and_vendor_are_found(text: str, named: tuple[str, str]) -> None:
    assert parse_cpuinfo(text) == named


@given(st.text())
def test_any_text_is_a_cpuinfo(text: str) -> None:
    assert all(isinstance(part, str) for part in parse_cpuinfo(text))


def test_a_host_without_cpuinfo_still_has_a_model(tmp_path: Path) -> None:
    assert Hardware.detect(tmp_path / "missing").cpu_model


def test_cpu_share_is_that_since_the_last_look() -> None:
    looks, clock = iter([(50.0, 100.0), (51.0, 104.0)]), iter([0.0, 1.0])
    meter = CpuMeter(lambda: next(looks), lambda: next(clock))
    assert (meter.read(), meter.read()) == (50.0, 25.0)


def test_cpu_share_stays_when_asked_again_at_once() -> None:
    looks, clock = iter([(50.0, 100.0)]), iter([0.0, 0.05])
    meter = CpuMeter(lambda: next(looks), lambda: next(clock))
    assert (meter.read(), meter.read()) == (50.0, 50.0)


def test_cpu_share_stays_when_no_time_was_counted() -> None:
    clock = iter([0.0, 1.0])
    meter = CpuMeter(lambda: (50.0, 100.0), lambda: next(clock))
    assert (meter.read(), meter.read()) == (50.0, 50.0)


def test_busy_seconds_are_a_part_of_all() -> None:
    busy, total = cpu_seconds()
    assert 0 < busy <= total


def test_a_user_without_a_name_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert read_system().user == ""


def test_a_host_that_hides_its_frequency_reports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden() -> None:
        raise FileNotFoundError("scaling_cur_freq")

    monkeypatch.setattr(psutil, "cpu_freq", hidden)
    assert host.read_cpu(Hardware("m", "v", 1, 1), 0.0).freq_mhz is None


def test_the_loopback_is_no_interface_to_report() -> None:
    assert "lo" not in {found.interface for found in read_network()}
