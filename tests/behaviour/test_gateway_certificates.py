"""Which certificate a caller is shown, and how new ones are taken while everything runs on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.gateway import certificate_store
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import post, scripted
from tests.support.tls_authority import Authority, Issued, tls_caller

BYE = "Connection: close\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_store, "LOOK_SECONDS", 0.05)


@contextlib.asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    async with scripted() as upstream, gateway(folder / "data", **settings) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig


def put(issued: Issued, chain: Path, key: Path) -> None:
    """As tools do: the certificate first, then the key, each in one step."""
    chain.parent.mkdir(parents=True, exist_ok=True)
    for source, target in ((issued.chain, chain), (issued.key, key)):
        beside = target.with_name(target.name + ".part")
        shutil.copyfile(source, beside)
        beside.replace(target)


async def shown(rig: Rig, authority: Authority, name: str | None) -> str:
    """The common name of the certificate that is shown to who asks for `name`."""
    context = authority.trusted()
    context.check_hostname = False
    async with tls_caller(rig.port, context, name) as connection:
        told = connection.tls.getpeercert()
        assert told is not None
        subject = told["subject"]
        assert isinstance(subject, tuple)
        return str(subject[0][0][1])


async def until_shown(rig: Rig, authority: Authority, name: str, expected: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await shown(rig, authority, name) != expected:
            await asyncio.sleep(0.02)


async def test_the_certificate_is_the_one_for_the_name_that_is_asked_for(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "certificates"
    put(authority.issue("exact", ["a.example.com", "b.test"]), folder / "a.crt", folder / "a.key")
    star = authority.issue("star", ["*.example.com"], rsa=True)
    put(star, folder / "wild" / "tls.crt", folder / "wild" / "tls.key")
    own = authority.issue("default", ["localhost"])
    put(own, tmp_path / "own.crt", tmp_path / "own.key")
    settings = {"tls_cert": str(own.chain), "tls_key": str(own.key), "tls_dir": str(folder)}
    async with serving(tmp_path, **settings) as rig:
        for name, expected in (
            ("a.example.com", "exact"),
            ("A.Example.com", "exact"),
            ("b.test", "exact"),
            ("z.example.com", "star"),
            ("y.z.example.com", "default"),
            ("example.com", "default"),
            ("localhost", "default"),
            (None, "default"),
        ):
            assert await shown(rig, authority, name) == expected, name
        async with tls_caller(rig.port, authority.trusted(), "z.example.com") as connection:
            connection.send(post(b"x", extra=BYE))
            assert (await connection.everything()).endswith(b"x")


async def test_without_a_default_an_unknown_name_is_refused_by_its_alert(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "certificates"
    put(authority.issue("known", ["known.test"]), folder / "known.crt", folder / "known.key")
    async with serving(tmp_path, tls_dir=str(folder)) as rig:
        assert await shown(rig, authority, "known.test") == "known"
        for name in ("other.test", None):
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await shown(rig, authority, name)
        put(authority.issue("fallback", ["fallback.test"]), folder / "default.crt", folder / "default.key")
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(ssl.SSLError):
                    assert await shown(rig, authority, "other.test") == "fallback"
                    break
                await asyncio.sleep(0.02)


async def test_of_two_certificates_for_one_name_the_longer_valid_one_is_shown(
    tmp_path: Path, authority: Authority
) -> None:
    folder = tmp_path / "certificates"
    for name, days in (("a-short", 10), ("b-long", 20), ("c-short", 10)):
        put(authority.issue(name, ["one.test"], days=days), folder / f"{name}.crt", folder / f"{name}.key")
    async with serving(tmp_path, tls_dir=str(folder)) as rig:
        assert await shown(rig, authority, "one.test") == "b-long"


async def test_new_certificates_are_taken_under_load_and_no_connection_notices(
    tmp_path: Path, authority: Authority
) -> None:
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    generations = [authority.issue(f"generation-{number}", ["localhost"], rsa=number % 2 == 1) for number in range(4)]
    put(generations[0], chain, key)
    async with serving(tmp_path, tls_cert=str(chain), tls_key=str(key)) as rig:
        done = asyncio.Event()
        answered = [0, 0]

        async def keep_alive() -> None:
            async with tls_caller(rig.port, authority.trusted()) as connection:
                while not done.is_set():
                    connection.send(post(b"x"))
                    assert (await connection.read()).endswith(b"x")
                    answered[0] += 1

        async def anew() -> None:
            while not done.is_set():
                async with tls_caller(rig.port, authority.trusted()) as connection:
                    connection.send(post(b"y", extra=BYE))
                    assert (await connection.everything()).endswith(b"y")
                    answered[1] += 1

        async with asyncio.TaskGroup() as load:
            for _ in range(4):
                load.create_task(keep_alive())
                load.create_task(anew())
            for number, issued in enumerate(generations[1:], start=1):
                put(issued, chain, key)
                await until_shown(rig, authority, "localhost", f"generation-{number}")
                before = tuple(answered)
                await until(lambda: all(map(int.__gt__, answered, before)), "requests go on")  # noqa: B023
            done.set()


async def test_a_pair_that_is_not_sound_stays_out_and_the_old_one_in(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    old, new = authority.issue("old", ["localhost"]), authority.issue("new", ["localhost"])
    put(old, chain, key)
    caplog.set_level(logging.INFO)

    def told(part: str) -> Any:
        return [one for one in caplog.records if part in str(getattr(one, "problem", ""))]

    async with serving(tmp_path, tls_cert=str(chain), tls_key=str(key)) as rig:
        shutil.copyfile(new.chain, chain)
        await until(lambda: told("is not the key of the certificate"), "the mismatch is told")
        assert told("is not the key")[0].file == str(key)
        assert await shown(rig, authority, "localhost") == "old"
        chain.write_text("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
        await until(lambda: told("must hold a certificate"), "the nonsense is told")
        assert told("must hold a certificate")[0].file == str(chain)
        chain.unlink()
        await until(lambda: told("No such file"), "the loss is told")
        assert await shown(rig, authority, "localhost") == "old"
        before = len(told("No such file"))
        await asyncio.sleep(0.3)
        assert len(told("No such file")) == before, "it is told once"
        put(new, chain, key)
        await until_shown(rig, authority, "localhost", "new")


async def test_a_mounted_secret_is_exchanged_as_kubernetes_does_it_and_taken_away(
    tmp_path: Path, authority: Authority
) -> None:
    folder = tmp_path / "certificates"
    secret = folder / "shop"

    def mount(version: str, issued: Issued) -> None:
        put(issued, secret / f"..{version}" / "tls.crt", secret / f"..{version}" / "tls.key")
        link = secret / "..data_tmp"
        link.symlink_to(f"..{version}")
        link.replace(secret / "..data")
        for name in ("tls.crt", "tls.key"):
            with contextlib.suppress(FileExistsError):
                (secret / name).symlink_to(f"..data/{name}")

    put(authority.issue("fallback", ["x.test"]), folder / "default.crt", folder / "default.key")
    mount("one", authority.issue("shop-1", ["shop.test"]))
    async with serving(tmp_path, tls_dir=str(folder)) as rig:
        assert await shown(rig, authority, "shop.test") == "shop-1"
        mount("two", authority.issue("shop-2", ["shop.test"]))
        await until_shown(rig, authority, "shop.test", "shop-2")
        shutil.rmtree(secret)
        await until_shown(rig, authority, "shop.test", "fallback")


async def test_one_that_has_expired_is_served_with_a_warning(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = authority.issue("soon", ["localhost"], days=1)
    async with serving(tmp_path, tls_cert=str(issued.chain), tls_key=str(issued.key)) as rig:
        assert "a certificate expires soon" in caplog.text
        assert await shown(rig, authority, "localhost") == "soon"
    monkeypatch.setattr("router.gateway.certificate_store.time.time", lambda: 9_999_999_999.0)
    certificate_store.served(str(issued.chain), str(issued.key), "", ("http/1.1",))
    assert "a certificate has expired" in caplog.text
