"""A websocket that tells what its application finds in ``websocket.state``."""

from fastapi import WebSocket


async def tell_state(websocket: WebSocket) -> None:
    """Answer each name that the client sends with the type of what ``websocket.state`` has under it."""
    await websocket.accept()
    async for name in websocket.iter_text():
        await websocket.send_json({name: type(getattr(websocket.state, name, None)).__name__})
