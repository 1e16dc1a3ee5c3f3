"""A hub on this machine: the few addresses that downloads and uploads ask for; started by its path.

Prints its port, then a line for every request. Files of a repository lie in ROOT/ORG/NAME.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
SHA = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def files(self, repo):
        folder = ROOT / repo
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def missing(self):
        self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            repo = "/".join(parts[2:4])
            if not (ROOT / repo).is_dir():
                return self.missing()
            if "tree" in parts:
                entries = [
                    {
                        "type": "file",
                        "path": name,
                        "size": (ROOT / repo / name).stat().st_size,
                        "oid": hashlib.sha1((ROOT / repo / name).read_bytes()).hexdigest(),
                    }
                    for name in self.files(repo)
                ]
                return self.answer(entries)
            siblings = [{"rfilename": name} for name in self.files(repo)]
            return self.answer(
                {"id": repo, "modelId": repo, "sha": SHA, "siblings": siblings, "private": False}
            )
        if len(parts) > 4 and parts[2] == "resolve":
            file = ROOT / parts[0] / parts[1] / "/".join(parts[4:])
            if not file.is_file():
                return self.answer({"error": "none"}, 404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(content, ETag=etag, X_Repo_Commit=SHA)
        return self.answer({"error": "no such address"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.body()
        if parts == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "forbidden":
                return self.answer({"error": "hf_secretsecret may not do this"}, 403)
            (ROOT / repo).mkdir(parents=True, exist_ok=True)
            (ROOT / repo / ".private").write_text(
                str(asked.get("visibility") == "private" or asked.get("private") is True)
            )
            return self.answer({"url": f"http://{self.headers['Host']}/{repo}"})
        repo = "/".join(parts[2:4])
        if "preupload" in parts:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self.answer({"files": modes})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            here = f"http://{self.headers['Host']}/lfs"
            objects = [
                {
                    **asked,
                    "actions": {
                        "upload": {"href": f"{here}/{asked['oid']}"},
                        "verify": {"href": f"{here}/verify"},
                    },
                }
                for asked in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if parts == ["lfs", "verify"]:
            asked = json.loads(body)
            return self.answer({}, 200 if len(self.large(asked["oid"])) == asked["size"] else 404)
        if "commit" in parts:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    target = ROOT / repo / line["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(line["value"]["content"]))
                elif line["key"] == "lfsFile":
                    content = self.large(line["value"]["oid"])
                    (ROOT / repo / line["value"]["path"]).write_bytes(content)
                elif line["key"] == "header":
                    (ROOT / repo / ".message").write_text(line["value"]["summary"])
            url = f"http://{self.headers['Host']}/{repo}/commit/{SHA}"
            return self.answer({"commitUrl": url, "commitOid": SHA, "hookOutput": ""})
        return self.answer({"error": "no such address"}, 404)

    def do_PUT(self):
        """What Git LFS keeps: a large file under its SHA-256."""
        oid, content = self.path.rpartition("/")[2], self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer({"error": "other bytes than promised"}, 422)
        (ROOT / ".lfs").mkdir(exist_ok=True)
        (ROOT / ".lfs" / oid).write_bytes(content)
        return self.answer({})

    def large(self, oid):
        return (ROOT / ".lfs" / oid).read_bytes()

    def log_message(self, form, *args):
        print(self.command, self.path, flush=True)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
