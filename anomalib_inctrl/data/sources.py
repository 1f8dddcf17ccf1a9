# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of images: any anomalib datamodule, one instance a category."""

import importlib
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.datamodules.base import AnomalibVideoDataModule
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.errors import ArgumentError, DatasetError

# What the folder of a category holds: in MVTec AD's layout and those like it, in VisA as distributed, in Real-IAD.
_CATEGORY_PARTS = {"train", "Data", "OK"}


@dataclass
class DataSource:
    """One dataset to train or test on.

    Attributes:
        datamodule: Name of an anomalib datamodule class: short (``MVTecAD``) or with its module
            (``my_package.MyDataModule``).
        root: Folder of the dataset; the class's default if not given.
        categories: Categories to use; if not given, the ``default_categories`` of the class, or else all that are found
            in ``root``. Not for classes that have none, such as ``Folder``.
        options: Further arguments of the class, for example ``val_split_mode``. A class that splits at random does so
            with seed 0 if not given another.
        class_name: Name of the source's one class. By default the category, or for classes that have none their
            ``name``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", revalidate_instances="always")

    datamodule: str
    root: str | Path | None = None
    categories: list[str] | None = None
    options: dict[str, Any] | None = None
    class_name: str | None = None

    def __post_init__(self) -> None:
        """Check the types; what they name is looked for when it is needed."""
        check_arguments(DataSource.__init__, vars(self))
        if self.categories is not None and not len(self.categories):
            msg = "categories=[]: name at least one, or leave them out for all."
            raise ArgumentError(msg)


_SOURCES = TypeAdapter(list[DataSource])


def parse_sources(sources: Iterable[DataSource | Mapping[str, Any]] | None, argument: str) -> list[DataSource]:
    """Check sources given as :class:`DataSource` or as mappings, as YAML gives them.

    Raises:
        DatasetError: If this is no list of sources, or a source has unknown keys, wrong values or no ``datamodule``.
    """
    if OmegaConf.is_config(sources):
        sources = OmegaConf.to_container(sources, resolve=True)  # type: ignore[assignment]
    try:
        found = _SOURCES.validate_python(sources or [])
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
        known = ", ".join(field.name for field in fields(DataSource))
        msg = (
            f"{argument}{place}={first['input']!r}: {first['msg']}. Give a list of sources; a source takes {known}, of "
            "which datamodule is needed."
        )
        raise DatasetError(msg) from error
    for index, source in enumerate(found):
        _find_class(source.datamodule, f"{argument}[{index}]")
    return found


def build_datamodules(sources: list[DataSource], argument: str) -> dict[str, AnomalibDataModule]:
    """Build one datamodule for each category of each source, without reading images.

    A class has the name of its category. Where two sources have the same, both are called ``<datamodule>/<category>``:
    their images are not of one kind.

    Returns:
        Datamodules by class name, in the order of the sources.

    Raises:
        DatasetError: If a datamodule class, folder, category or option does not exist, or a class is given
            twice.
    """
    built = [pair for index, source in enumerate(sources) for pair in _build_source(source, f"{argument}[{index}]")]
    uses = Counter(name for name, _ in built)
    datamodules: dict[str, AnomalibDataModule] = {}
    for name, datamodule in built:
        key = name if uses[name] == 1 else f"{type(datamodule).__name__}/{name}"
        if key in datamodules:
            msg = f"{argument}: the class {key!r} is given twice. Leave one out, or name it with class_name."
            raise DatasetError(msg)
        datamodules[key] = datamodule
    return datamodules


def prepare(datamodule: AnomalibDataModule) -> None:
    """Let a datamodule of :func:`build_datamodules` prepare its files without a download.

    The classes of anomalib download what they do not find, so with a mistyped folder they would fetch gigabytes. They
    are only asked to prepare data that is present, as Visa does, which applies its split. Classes of other packages may
    create their data.
    """
    root = _root(datamodule)
    if not _is_anomalibs(type(datamodule)) or (root is not None and (root / datamodule.category).is_dir()):
        datamodule.prepare_data()


def read_parts(class_name: str, datamodule: AnomalibDataModule, argument: str) -> dict[str, AnomalibDataset]:
    """Set a datamodule of :func:`build_datamodules` up: its ``train``, ``val`` and ``test`` datasets, if it has them.

    Raises:
        DatasetError: If the datamodule cannot read its files; names the class and the argument that gave it.
    """
    if not hasattr(datamodule, "test_data"):
        try:
            datamodule.setup()
        except Exception as error:  # whatever a datamodule raises, the message names it
            name = type(datamodule).__name__
            msg = (
                f"{argument}: {name} cannot read class {class_name!r} in {_root(datamodule)}: {error} Check that the "
                f"dataset is complete and that its folders are as {name} expects."
            )
            raise DatasetError(msg) from error
    parts = {split: getattr(datamodule, f"{split}_data", None) for split in ("train", "val")}
    # Not test_data: MVTecAD2 has several test sets, its loader takes the chosen one.
    parts["test"] = datamodule.test_dataloader().dataset
    return {split: part for split, part in parts.items() if part is not None}


def _find_class(name: str, where: str) -> type[AnomalibDataModule]:
    classes = _image_classes(AnomalibDataModule)  # type: ignore[type-abstract]
    known = {cls.__name__: cls for cls in classes}
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "anomalib.data"), attribute, known.get(name))
    except ImportError as error:
        msg = f"{where}.datamodule={name!r}: {error}. Install the package or correct the name."
        raise DatasetError(msg) from error
    if found not in classes:
        msg = f"{where}.datamodule={name!r}: no such datamodule of images. Available: {', '.join(sorted(known))}."
        raise DatasetError(msg)
    return cast("type[AnomalibDataModule]", found)


def _image_classes(cls: type[AnomalibDataModule]) -> list[type[AnomalibDataModule]]:
    """Classes that can be created and hold images."""
    found = [] if inspect.isabstract(cls) or issubclass(cls, AnomalibVideoDataModule) else [cls]
    for subclass in cls.__subclasses__():
        found += _image_classes(subclass)
    return found


def _build_source(source: DataSource, where: str) -> list[tuple[str, AnomalibDataModule]]:
    cls = _find_class(source.datamodule, where)
    parameters = inspect.signature(cls).parameters
    given = dict(source.options or {})
    if "category" in given:
        msg = f"{where}.options: has category={given['category']!r}. Give it as categories."
        raise DatasetError(msg)
    if source.categories is not None and "category" not in parameters:
        msg = f"{where}.categories={source.categories}: {cls.__name__} has no categories. Leave them out."
        raise DatasetError(msg)
    if source.root is not None:
        given["root"] = str(source.root)
    if "num_workers" in parameters:
        given.setdefault("num_workers", 0)  # its own loaders are not used
    if "seed" in parameters and parameters["seed"].default is None:
        # Random splits belong to the data: they are the same in every process, and in a run with another seed.
        given.setdefault("seed", 0)
    probe = _construct(cls, given, where)
    root = _root(probe)
    if _is_anomalibs(cls) and root is not None and not root.is_dir():
        msg = (
            f"{where}.root: there is no folder {root}. Give the folder that holds {cls.__name__}; if you do not have "
            f"the dataset yet, fetch it with {cls.__name__}(root=...).prepare_data() or from its home page."
        )
        raise DatasetError(msg)
    if "category" not in parameters:
        return [(source.class_name or probe.name, probe)]
    categories = _choose_categories(source, cls, root, where)
    if source.class_name is not None and len(categories) > 1:
        msg = f"{where}.class_name={source.class_name!r}: names one class, but there are {len(categories)} categories."
        raise DatasetError(msg)
    return [(source.class_name or name, _construct(cls, {**given, "category": name}, where)) for name in categories]


def _construct(cls: type[AnomalibDataModule], arguments: dict[str, Any], where: str) -> AnomalibDataModule:
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        takes = f". {cls.__name__} takes {', '.join(inspect.signature(cls).parameters)}."
        msg = f"{where}: {error}{'' if isinstance(error, DatasetError) else takes}"
        raise DatasetError(msg) from error


def _choose_categories(source: DataSource, cls: type[AnomalibDataModule], root: Path | None, where: str) -> list[str]:
    # A class that lists its categories creates or converts them; others are searched for them.
    if listed := sorted(getattr(cls, "default_categories", ())):
        return source.categories or listed
    inside = _folders(root)
    # A category's folder lies in root or in a folder of it, and is laid out as in one of anomalib's datasets.
    folders = [*inside, *(inner for folder in inside for inner in _folders(folder))]
    found = sorted({path.name for path in folders if any(inner.name in _CATEGORY_PARTS for inner in _folders(path))})
    if not (wanted := source.categories or found):
        held = ", ".join(folder.name for folder in inside) or "no folders"
        msg = f"{where}.categories: none given and none found in {root}, which holds {held}. Correct root or name them."
        raise DatasetError(msg)
    # Some classes keep no folder for a category; then only reading shows what is there.
    missing = [name for name in wanted if name not in found] if found and _is_anomalibs(cls) else []
    if missing:
        msg = f"{where}.categories: {', '.join(missing)} not found in {root}. Available: {', '.join(found)}."
        raise DatasetError(msg)
    return wanted


def _folders(root: Path | None) -> list[Path]:
    """Folders directly in root, sorted, without hidden ones, which unfinished work and tools leave."""
    if root is None or not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _root(datamodule: AnomalibDataModule) -> Path | None:
    root = getattr(datamodule, "root", None)
    return None if root is None else Path(root)


def _is_anomalibs(cls: type[AnomalibDataModule]) -> bool:
    return cls.__module__.partition(".")[0] == "anomalib"
