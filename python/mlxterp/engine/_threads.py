"""How a thread that ran a model ends.

MLX keeps for each thread the functions of Python's it compiled there and the key
of the next random numbers, and drops them when the operating system ends the
thread. `join()` does not wait for that before Python 3.13, so Python may be
shutting down by then, and who asks for the GIL then ends the process by
std::terminate. So they are dropped while the thread still holds the GIL.
"""

import threading

import mlx.core as mx


class _End:
    """Lives as long as its thread does for Python."""

    def __del__(self):
        mx.clear_streams()


class _Thread(threading.local):
    end: _End | None = None


_this = _Thread()


def leave_clean() -> None:
    """Whatever MLX keeps for this thread goes when the thread ends, if Python
    began it. (Others only visit Python, and MLX's main thread has its own way.)"""
    if _this.end is None:
        here = threading.current_thread()
        if here is threading.main_thread() or isinstance(here, threading._DummyThread):
            return
        _this.end = _End()
