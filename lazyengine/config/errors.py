"""What can go wrong in a config. `ConfigError` is the base of every documented error of this package."""


class ConfigError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigWarning(UserWarning):
    """Something legal in a config that is more likely a mistake."""


class UnknownNameError(ConfigError, AttributeError, TypeError):
    """A name that the target of a node (or the config file) does not have."""


class UnsetError(ConfigError, AttributeError, LookupError):
    """An argument was read that the config does not set."""


class MissingArgumentError(ConfigError, TypeError):
    """A required argument has no value when its node is built."""


class FrozenError(ConfigError, AttributeError, TypeError):
    """A frozen config was changed."""


class TargetError(ConfigError, TypeError):
    """A target that cannot be imported or is not callable."""


class RefError(ConfigError, ValueError):
    """A `ref` names a path that does not exist, or refs form a cycle."""


class SharingError(ConfigError, ValueError):
    """A change of a shared node that would reach too far, or not far enough."""


class ConfigFileError(ConfigError, ValueError):
    """A file that cannot be loaded as a config."""


class ConfigNotFoundError(ConfigFileError, FileNotFoundError):
    """The config file does not exist."""


class ConfigImportError(ConfigFileError, ImportError):
    """An import of one config by another that cannot work."""


class OverrideError(ConfigError, ValueError):
    """An override (`a.b=1`) that cannot be applied; nothing has been changed."""


class SaveError(ConfigError, ValueError):
    """A config that cannot be written or read in the asked format."""
