"""The HTTP server: models behind endpoints that the clients of other servers know.

`bigbird serve MODEL` runs it. `flax_bigbird.server.app.create_app` is its ASGI application, and
`flax_bigbird.server.lifecycle.serve` runs that in this process. All modules need the extra `serve`.
"""
