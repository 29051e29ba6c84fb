"""What is run as a control process: `weighbridge.server.control`, loaded without the garbage collector.

All that is loaded stays, so to look through it again and again while it grows is a seventh of the start.
"""

import gc
import sys

if __name__ == "__main__":
    gc.disable()
    from weighbridge.server.control import main

    sys.exit(main(sys.argv[1:]))
