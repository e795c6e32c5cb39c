"""The commands: each module parses its flags, calls the library, and prints; `main(arguments) -> exit status`.

Only `pgtorch.__main__` imports this room, one command at a time; it may import every other room.
"""
