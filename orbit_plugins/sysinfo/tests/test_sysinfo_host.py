import pwd
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_sysinfo import host
from orbit_sysinfo.host import CpuMeter, Hardware, parse_cpuinfo, read_network, read_system

X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7763\ncpu MHz\t: 2445.4\n"
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800.0MHz\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t:\nHardware\t: Grace\n"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        pytest.param(X86, "AMD EPYC 7763", id="x86"),
        pytest.param(POWER, "POWER9, altivec supported", id="power"),
        pytest.param(ARM, "Grace", id="arm"),
        pytest.param("", "", id="empty"),
    ],
)
def test_the_processors_name_is_found(text: str, model: str) -> None:
    assert parse_cpuinfo(text) == model


@given(st.text())
def test_any_text_is_a_cpuinfo(text: str) -> None:
    assert isinstance(parse_cpuinfo(text), str)


def test_a_host_without_cpuinfo_still_has_a_model(tmp_path: Path) -> None:
    assert Hardware.detect(tmp_path / "missing").cpu_model


def test_cpu_share_is_a_percentage_and_stays_while_fresh() -> None:
    meter = CpuMeter()
    first = meter.read()
    assert 0 <= first <= 100
    assert meter.read() == first


def test_cpu_share_stays_when_no_time_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = psutil.cpu_times()
    monkeypatch.setattr(psutil, "cpu_times", lambda: frozen)
    monkeypatch.setattr(host, "FRESH", 0.0)
    meter = CpuMeter()
    assert meter.read() == meter.read()


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
