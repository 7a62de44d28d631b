"""Hydra looks for the choices of groups in the folders that a user joined, too."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from layerfit.config.folders import conf_folders


class JoinedFolders(SearchPathPlugin):
    """Asked whenever Hydra is opened."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append what was joined: Hydra takes the first file of a name."""
        for folder in conf_folders()[1:]:
            search_path.append("joined", f"file://{folder}")
