"""Runs inside of the virtual machine: executes the scripts that the tests on the host send over TCP.

One connection carries one request, a JSON line {"script": bash text, "timeout": seconds}, and one answer, a JSON line
{"status": exit status (124: timeout), "output": text}. {"script": null} ends the agent and thereby the machine.
What a script starts in the background lives on when the script ends.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import tempfile
import threading

PORT = 7000
TIMEOUT_STATUS = 124  # as timeout(1)


def run(script: str, timeout: float) -> tuple[int, str]:
    """Run a bash script; the output goes through a file, so that background processes do not hold up the answer."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = TIMEOUT_STATUS
        output.seek(0)
        return status, output.read().decode(errors="replace")


class Request(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        if request["script"] is None:
            threading.Thread(target=self.server.shutdown).start()
            return
        status, output = run(request["script"], request["timeout"])
        self.wfile.write(json.dumps({"status": status, "output": output}).encode() + b"\n")


class Agent(socketserver.ThreadingTCPServer):
    """The listener; scripts run side by side."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Agent(("0.0.0.0", PORT), Request) as agent:
        agent.serve_forever()
