"""A Hydra plugin that adds the user's folders (--conf) to the search path of groups."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from layerfit.config.folders import conf_folders


class JoinedFolders(SearchPathPlugin):
    """Called by Hydra at every initialisation."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the user's folders: Hydra takes the first file of a name, so layerfit's win."""
        for folder in conf_folders()[1:]:
            search_path.append("joined", f"file://{folder}")
