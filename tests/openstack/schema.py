"""Does a running controller answer as its document says, whoever asks whatever?

    schema.py CLOUDS_YAML [SECONDS]

Runs schemathesis against the controller of this file, SECONDS (120) for each caller: a member and a reader of a project that is
made for it, nobody, and the admin, of identity last of all: there it deletes whom it finds, itself among them. Exits with 1
if an answer was a 5xx or not as the document says, or if something was taken that the document does not allow.
"""

import json
import pathlib
import subprocess
import sys
import urllib.request

import yaml

CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")
DOMAIN = {"name": "Default"}


def ask(url, method, body=None, token=None):
    headers = {"content-type": "application/json"}
    if token:
        headers["x-auth-token"] = token
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return json.loads(text) if text else None, answer.headers.get("x-subject-token")


def token(identity, name, password, project):
    user = {"name": name, "domain": DOMAIN, "password": password}
    methods = {"methods": ["password"], "password": {"user": user}}
    scope = {"project": {"name": project, "domain": DOMAIN}}
    auth = {"auth": {"identity": methods, "scope": scope}}
    return ask(f"{identity}/auth/tokens", "POST", auth)[1]


def callers(auth):
    """Each caller, its token, and which paths it asks."""
    identity = auth["auth_url"]
    admin = token(identity, auth["username"], auth["password"], auth["project_name"])
    roles = {role["name"]: role["id"] for role in ask(f"{identity}/roles", "GET", None, admin)[0]["roles"]}
    name = "schema"
    project = ask(f"{identity}/projects", "POST", {"project": {"name": name}}, admin)[0]["project"]["id"]
    for role in ["member", "reader"]:
        user = {"name": f"{name}-{role}", "password": "of-a-test"}
        user = ask(f"{identity}/users", "POST", {"user": user}, admin)[0]["user"]["id"]
        ask(f"{identity}/projects/{project}/users/{user}/roles/{roles[role]}", "PUT", None, admin)
        yield role, token(identity, f"{name}-{role}", "of-a-test", name), []
    yield "nobody", None, []
    yield "admin", admin, ["--exclude-path-regex", "^/identity/"]
    yield "admin, of identity", admin, ["--include-path-regex", "^/identity/"]


def main(clouds, seconds="120"):
    with open(clouds, encoding="utf-8") as file:
        auth = yaml.safe_load(file)["clouds"]["overweave"]["auth"]
    document = auth["auth_url"].replace("/identity/v3", "/openapi.json")
    faulty = []
    for who, secret, paths in callers(auth):
        print(f"== {who}", flush=True)
        command = ["schemathesis", "--config-file", str(CONFIG), "run", document, "--phases", "coverage,fuzzing,stateful"]
        command += ["--max-time", seconds, "--no-shrink", "--continue-on-failure", *paths]
        if secret:
            command += ["--header", f"X-Auth-Token: {secret}"]
        if subprocess.run(command, check=False).returncode:
            faulty.append(who)
    return f"faults were found as {', '.join(faulty)}" if faulty else 0


sys.exit(main(*sys.argv[1:]))
