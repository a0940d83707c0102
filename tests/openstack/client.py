"""The `openstack` client, its start paid once for many commands.

Each line of standard input is a JSON array: the words of one command. Each is answered by one JSON line:

    code    what `openstack` would have exited with
    out     what it would have printed
    err     what it would have complained
    ago     seconds since the API answered the command's last write, or its last read if it wrote nothing

`["rest", METHOD, PATH, BODY]` is a request to the Network API with the client's own token, for what no command
can say; `out` is the answer's body then.
"""

import contextlib
import io
import json
import logging
import sys
import time

import requests
from openstackclient import shell

answered = {}
send = requests.Session.send


def timed(session, request, **options):
    response = send(session, request, **options)
    answered["read" if request.method in ("GET", "HEAD") else "write"] = time.monotonic()
    return response


requests.Session.send = timed


class Batch(shell.OpenStackShell):
    """Reads commands as the interactive client does, but tells their ends apart."""

    def interact(self):
        # A wrong option ends the command, not the client.
        self.interactive_mode = False
        lines, replies = sys.stdin, sys.stdout
        for line in lines:
            replies.write(json.dumps(self.answer(json.loads(line))) + "\n")
            replies.flush()

    def answer(self, words):
        out, err = io.StringIO(), io.StringIO()
        said = logging.StreamHandler(err)
        said.setLevel(logging.WARNING)
        logging.getLogger().addHandler(said)
        answered.clear()
        self.stdout = out
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = self.rest(*words[1:]) if words[0] == "rest" else self.run_subcommand(words)
            except SystemExit as end:
                code = end.code
        logging.getLogger().removeHandler(said)
        now = time.monotonic()
        last = answered.get("write", answered.get("read", now))
        return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "ago": now - last}

    def rest(self, method, path, body=None):
        network = self.client_manager.sdk_connection.network
        response = network.request(path, method, json=body)
        self.stdout.write(response.text)
        if not response.ok:
            sys.stderr.write(f"HTTP {response.status_code}")
        return 0 if response.ok else 1


sys.exit(Batch().run(sys.argv[1:]))
