"""What the system refuses (a full disk, no permission, a file where a folder should be), in one line with the fix."""

from __future__ import annotations

import errno

_WORDS = {
    errno.ENOSPC: ("the disk is full", "free some space there, or give a folder on another disk"),
    errno.EDQUOT: ("your quota of this disk is used up", "free some space there, or give a folder on another disk"),
    errno.EFBIG: ("the file would be larger than is allowed", "raise `ulimit -f`, or the limit of the file system"),
    errno.EROFS: ("the disk is read-only", "give a folder that can be written to"),
    errno.EACCES: ("no permission", "give a folder of your own, or change its permissions"),
    errno.EPERM: ("it is not permitted", "give a folder of your own, or change its permissions"),
    errno.ENOTDIR: ("a file stands where a folder should be", "move the file away, or give another folder"),
    errno.EEXIST: ("a file stands where a folder should be", "move the file away, or give another folder"),
    errno.EISDIR: ("a folder stands where a file should be", "move the folder away"),
    errno.ENOTEMPTY: ("a folder stands where a file should be", "move the folder away"),
    errno.ENOENT: ("it is not there, or was removed", "start the same command again"),
    errno.ELOOP: ("its links lead in a circle", "give the folder itself"),
    errno.EIO: ("the disk reports an error", "look at the system's log, or give a folder on another disk"),
    errno.ESTALE: ("the network file system has lost it", "start the same command again"),
    errno.EMFILE: ("too many files are open", "raise `ulimit -n`, or run fewer at once"),
    errno.ENFILE: ("too many files are open on this machine", "run fewer at once"),
    errno.EAGAIN: ("the system starts no more processes", "raise `ulimit -u`, or run fewer at once"),
    errno.ENOMEM: ("no memory is left", "run fewer at once"),
    errno.ECONNREFUSED: ("the process that starts runs is gone", "start the same command again"),
}


def os_error_line(error: OSError) -> str:
    """Return `results/runs/ab.json: the disk is full (ENOSPC); free some space there, or ...`."""
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno not in _WORDS:
        return f"{where}{error.strerror or ' '.join(str(error).split()) or type(error).__name__}"
    what, fix = _WORDS[error.errno]
    return f"{where}{what} ({errno.errorcode[error.errno]}); {fix}"
