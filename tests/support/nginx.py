"""A real nginx in front of instances of the service, with the lines that docs/operate/deploy.md shows."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machine import free_port, program
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "operate" / "deploy.md"
NGINX_PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"  # where Debian has it
NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  {map}
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream dub5 {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    {location}
    proxy_next_upstream error timeout non_idempotent;
  }}
}}
"""


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[str]:
    """Run nginx in front of these ports."""
    port, config = free_port(), folder / "nginx.conf"
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=1s;" for each in ports)
    user = "user root;" if os.geteuid() == 0 else ""
    location, map_ = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    location = location.replace("127.0.0.1:8080", "dub5")
    parts = {"user": user, "servers": servers, "map": map_, "location": location}
    config.write_text(NGINX.format(folder=folder, port=port, **parts), encoding="utf-8")
    command = [program("nginx", path=NGINX_PATH), "-c", str(config), "-p", str(folder), "-e", "stderr"]
    with (folder / "nginx.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
