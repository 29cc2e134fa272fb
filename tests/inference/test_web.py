"""`llavakit chat --web`: who may reach it, and what may be uploaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.inference.conversation import NamedModel
from llavakit.inference.feedback import Feedback
from llavakit.inference.generation import Sampling
from llavakit.inference.picture import UploadLimits
from llavakit.inference.web import Address

from .web_server import free_port


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_another_host_needs_a_password(host: str):
    with pytest.raises(ValueError, match="add --auth USER:PASSWORD"):
        Address(host)
    assert Address(host, auth="me:secret:with:colons").credentials == ("me", "secret:with:colons")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str):
    assert Address(host).credentials is None


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret", ":"])
def test_half_a_password_is_refused(auth: str):
    with pytest.raises(ValueError, match="--auth must be USER:PASSWORD"):
        Address(auth=auth)


def test_the_command_refuses_before_it_loads(capsys: pytest.CaptureFixture):
    for arguments, message in {
        ("nowhere", "--web", "--host", "0.0.0.0"): "--host 0.0.0.0 lets others reach the page",
        ("nowhere", "--web", "--port", "0"): "--port 0: give 1 to 65535",
        ("nowhere", "nowhere", "--web"): "name one checkpoint, or two different ones",
        ("a", "b", "c", "--web"): "name one checkpoint, or two different ones",
        ("a", "b"): "side by side with --web only",
        ("nowhere", "--web", "--image", "x.jpg"): "--image and --question go without --web",
        ("nowhere", "--web", "--feedback", "thumbs.txt"): "ends in .jsonl",
        ("nowhere", "--web", "--max_pixels", "0"): "max_pixels=0",
        ("nowhere", "--web", "--max_upload_mb", "0"): "max_bytes=0",
        ("nowhere", "--web", "--temperature", "-1"): "temperature=-1.0",
    }.items():
        assert main(["chat", *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def guarded(vivid_llava: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with a password and small limits, served by this process."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    from llavakit.inference.web import launch, upload_folder
    from llavakit.inference.web_page import build_page

    address = Address(port=free_port(), auth="me:secret")
    limits = UploadLimits(max_bytes=50_000)
    feedback = Feedback(tmp_path_factory.mktemp("web") / "feedback.jsonl")
    with upload_folder():
        page = build_page([NamedModel("vivid", *vivid_llava)], feedback, limits, Sampling())
        launch(page, address, limits)
        yield f"http://127.0.0.1:{address.port}"
        page.close()


@pytest.fixture
def visitor(guarded: str) -> Iterator[Any]:
    """An HTTP client at the guarded page."""
    import httpx

    with httpx.Client(base_url=guarded, trust_env=False) as client:
        yield client


@pytest.mark.slow
def test_without_the_password_there_is_nothing_to_reach(visitor: Any):
    picture = {"files": ("a.jpg", b"x" * 100, "image/jpeg")}
    assert visitor.post("/gradio_api/upload", files=picture).status_code == 401
    assert visitor.get("/config").status_code == 401
    assert visitor.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
    assert visitor.post("/login", data={"username": "me", "password": "guess"}).status_code == 400
    assert visitor.get("/config").status_code == 401


def test_with_it_there_is_the_page_and_no_more(visitor: Any, tmp_path: Path, repository: Path):
    assert visitor.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    config = visitor.get("/config").json()
    assert not config["analytics_enabled"] and {"vivid"} <= {
        part["props"].get("label") for part in config["components"]
    }
    assert not visitor.get("/gradio_api/info").json()["named_endpoints"]
    for path in ("/etc/passwd", repository / "setup.cfg", tmp_path / "other.txt"):
        assert visitor.get(f"/gradio_api/file={path}").status_code in (403, 404)
    assert visitor.get("/monitoring").status_code in (403, 404)


def test_a_large_upload_is_refused_as_it_comes(visitor: Any):
    visitor.post("/login", data={"username": "me", "password": "secret"})
    fits = visitor.post("/gradio_api/upload", files={"files": ("a.jpg", b"x" * 40_000, "image/jpeg")})
    assert fits.status_code == 200 and Path(fits.json()[0]).stat().st_size == 40_000
    large = visitor.post("/gradio_api/upload", files={"files": ("a.jpg", b"x" * 5_000_000, "image/jpeg")})
    assert large.status_code == 413
