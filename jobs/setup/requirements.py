"""Print the requirements of an extra of setup.cfg, a line each."""

import sys
from configparser import ConfigParser

project = ConfigParser()
project.read("setup.cfg")
print(project["options.extras_require"][sys.argv[1]].strip())
