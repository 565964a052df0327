"""Cameras: what is one, the newest frame of a stream, reconnection, Ctrl-C, and the end of a stream."""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from helpers.small_networks import TINY

import netbuild
from netbuild.prediction import cameras, sources
from netbuild.weights.checkpoint import save

cv2 = pytest.importorskip("cv2")
PER_CONNECTION = 12


@pytest.fixture
def stream(monkeypatch):
    """A server of MJPEG whose frames show their number as grey; it closes each connection after a few frames."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.connections += 1
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _ in range(PER_CONNECTION):
                self.server.sent += 1
                data = cv2.imencode(".jpg", np.full((48, 64, 3), self.server.sent % 256, np.uint8))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                try:
                    self.wfile.write(head + data + b"\r\n")
                except OSError:
                    return
                time.sleep(0.02)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.connections = server.sent = 0
    server.url = f"http://user:secret@127.0.0.1:{server.server_port}/cam"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(cameras, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(cameras, "PATIENCE", 2.0)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    torch.manual_seed(0)
    save(netbuild.build("tiny.yaml"), tmp_path / "tiny.safetensors")
    return "tiny.safetensors"


def test_the_newest_frame_wins_and_a_lost_stream_is_opened_again(stream):
    taken, behind = [], []
    for shot in sources.read_shots(cameras.find_camera(stream.url)):
        taken.append(round(shot.pixels.mean()))
        behind.append(stream.sent - taken[-1])
        time.sleep(0.08)
        if stream.connections > 2 and len(taken) > 5:
            break
    assert taken == sorted(set(taken))
    assert taken[-1] > 1.5 * len(taken)  # frames were left out
    assert sorted(behind)[len(behind) // 2] <= 5
    assert (shot.frame, shot.is_live, str(shot.path)) == (len(taken), True, f"127-0-0-1-{stream.server_port}-cam")


@pytest.fixture
def ctrl_c():
    """Python's own handler of Ctrl-C, which a process that a shell has started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["track", "predict"])
def test_ctrl_c_ends_a_stream_and_what_was_saved_is_whole(command, cli, network, stream, tmp_path, ctrl_c):
    def interrupt():
        while not (tmp_path / "out").exists():  # it is made with the first frame of the video
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = cli(command, network, stream.url, "-o", "out")
    assert done.code == 0, done.err
    assert "secret" not in done.out + done.err
    name = f"127-0-0-1-{stream.server_port}-cam"
    assert f"{name} frame 1 48x64: nothing" in done.out
    assert (tmp_path / "out" / f"{name}.mp4").stat().st_size > 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stream_that_ends_is_exit_code_1(cli, network, stream, monkeypatch):
    monkeypatch.setattr(cameras, "PATIENCE", 0.3)
    monkeypatch.setattr(cameras, "OPEN_TIMEOUT", 1.0)
    threading.Timer(0.5, lambda: (stream.shutdown(), stream.server_close())).start()
    done = cli("predict", network, stream.url, "--save", "none")
    assert (done.code, "no frame for 0 seconds" in done.err) == (1, True), done.err
    done = cli("predict", network, stream.url, "--save", "none")
    assert (done.code, "OpenCV cannot open this camera" in done.err) == (1, True), done.err


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("0", 0),
        ("rtsp://a:b@host:554/live", "rtsp://a:b@host:554/live"),
        ("HTTP://host/video.mjpg", "HTTP://host/video.mjpg"),
        ("https://host/picture.jpg", None),
        ("https://host/clip.mp4", None),
        ("100", None),
        ("1", None),  # a folder of that name
        ("clip.mp4", None),
    ],
)
def test_what_is_a_camera(name, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    found = cameras.find_camera(name)
    assert (found.address if found else None) == address
    assert found is None or "b@" not in str(found.path)
