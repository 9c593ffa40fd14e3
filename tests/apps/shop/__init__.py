"""A small web shop with other applications mounted in it.

``main`` puts it together; every other module is one part of the shop.

=============== ==================== ==================================================================
module          served at            what its lifespan holds open
=============== ==================== ==================================================================
``catalogue``   ``/``                nothing
``database``                         a pool of SQLite connections, for the whole shop
``admin``       ``/admin``           the warehouse: a queue, and its worker in a task group
``metrics``     ``/admin/metrics``   a meter, one level further down
``reports``     ``/office/reports``  a printer, for a FastAPI sub-application on an included router
``assistants``  ``/mcp-sdk``         the session manager of a server of the MCP SDK
``assistants``  ``/mcp-fast``        the session manager of a FastMCP server
=============== ==================== ==================================================================
"""
