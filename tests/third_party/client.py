"""Drives the Admin API with `apisix-client`, which others wrote for the reference.

client.py URL KEY NODE_HOST NODE_PORT; each step is asserted, and the last line is `done`.
"""

import sys

import httpx
from apisix_client.client import ApisixClient
from apisix_client.common import Pagging
from apisix_client.service.models import Service
from apisix_client.upstream.models import Node, Upstream

url, key, host, port = sys.argv[1:5]
client = ApisixClient(url + "/", key)


def upstream(weight):
    return Upstream(name="from python", nodes=[Node(host=host, port=int(port), weight=weight)])


assert client.upstream.create_or_update(upstream(1), "py") == "py"
assert client.upstream.create_or_update(upstream(2), "py") == "py"
found = client.upstream.get("py")
assert found.value.nodes[0].weight == 2 and found.value.nodes[0].host == host, found
assert found.key == "/apisix/upstreams/py", found
assert client.upstream.get("nobody") is None

made = client.upstream.create_with_id_generation(upstream(1))
assert made, "no id was made"
assert client.upstream.count() == 2
assert {one.value.id for one in client.upstream.get_all()} == {"py", made}
page = client.upstream.get_all(Pagging(page=1, page_size=10))
assert len(page) == 2, page
assert client.upstream.delete(made) == 1
assert client.upstream.delete(made) == 0

assert client.service.create_or_update(Service(name="svc", upstream_id="py"), "svc") == "svc"
assert client.service.get("svc").value.upstream_id == "py"
# An upstream that is in use stays.
refused = httpx.delete(f"{url}/apisix/admin/upstreams/py", headers={"X-API-KEY": key})
assert refused.status_code == 400, refused.text

# It knows no stream routes; its HTTP session does.
raw = client.upstream._httpx_client
answer = raw.put("/stream_routes/py", json={"service_id": "svc"})
assert answer.status_code == 201, answer.text

wrong = ApisixClient(url + "/", "wrong key")
assert wrong.upstream.create_or_update(upstream(1), "x") is None
print("done")
