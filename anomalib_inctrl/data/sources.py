# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Where images come from: any anomalib datamodule, one instance a category."""

import importlib
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anomalib.data
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.datamodules.base import AnomalibVideoDataModule
from omegaconf import OmegaConf

from anomalib_inctrl.data.raw import DatasetCard, RawDataset
from anomalib_inctrl.errors import DatasetError


@dataclass
class DataSource:
    """One dataset to train or test on.

    Attributes:
        datamodule: Name of an anomalib datamodule class: short (``MVTecAD``) or with its module
            (``my_package.MyDataModule``).
        root: Folder of the dataset; the class's default if not given.
        categories: Categories to use; all that are found if not given. Not for classes that have none, such as
            ``Folder``.
        options: Further arguments of the class, for example ``val_split_mode``. A class that splits at random does it
            with seed 0 if not given another.
        class_name: What the source's one class is called. By default the category, or for classes that have none
            their ``name``.
    """

    datamodule: str
    root: str | None = None
    categories: list[str] | None = None
    options: dict[str, Any] | None = None
    class_name: str | None = None


def parse_sources(sources: Iterable[DataSource | Mapping[str, Any]] | None, argument: str) -> list[DataSource]:
    """Take sources as objects, or as the mappings that YAML gives.

    Args:
        sources: The sources, or None for none.
        argument: Name of the argument, for errors.

    Returns:
        The sources as objects.

    Raises:
        DatasetError: If there is something else than a list of sources, or a source has keys or values that it cannot
            have, or lacks ``datamodule``.
    """
    if OmegaConf.is_config(sources):
        sources = OmegaConf.to_container(sources, resolve=True)  # type: ignore[assignment]
    if isinstance(sources, (str, Mapping, DataSource)):
        msg = f"{argument}={sources!r}: give a list of sources."
        raise DatasetError(msg)
    parsed = []
    given: Iterable[Any] = sources or []
    for index, source in enumerate(given):
        if isinstance(source, Mapping):
            try:
                source = DataSource(**source)  # noqa: PLW2901
            except TypeError as error:
                known = ", ".join(field.name for field in fields(DataSource))
                msg = f"{argument}[{index}]: {error}. A source takes {known}; datamodule is needed."
                raise DatasetError(msg) from error
        if not isinstance(source, DataSource):
            msg = f"{argument}[{index}]={source!r}: give a DataSource, or a mapping with the key datamodule."
            raise DatasetError(msg)
        names: Any = source.categories
        options: Any = source.options or {}
        if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
            msg = f"{argument}[{index}].categories={names!r}: give a list of names, in quotes where they are numbers."
            raise DatasetError(msg)
        if not isinstance(options, Mapping):
            msg = f"{argument}[{index}].options={options!r}: give a mapping of arguments."
            raise DatasetError(msg)
        parsed.append(source)
    return parsed


def build_datamodules(sources: list[DataSource], argument: str) -> dict[str, AnomalibDataModule]:
    """Build one datamodule for each category of each source, without reading images.

    A class is called as its category. Where two sources have the same, both are called
    ``<datamodule>/<category>``: their images are not of one kind.

    Args:
        sources: The sources.
        argument: Name of the argument that gave them, for errors.

    Returns:
        Datamodules by class name, in the order of the sources.

    Raises:
        DatasetError: If a datamodule class, folder, category or option does not exist, or two classes cannot be told
            apart.
    """
    built: list[tuple[str, str, AnomalibDataModule]] = []
    for index, source in enumerate(sources):
        where = f"{argument}[{index}]"
        cls = _find_class(source.datamodule, where)
        built += [(cls.__name__, *pair) for pair in _build_source(source, cls, where)]
    uses = Counter(name for _, name, _ in built)
    datamodules: dict[str, AnomalibDataModule] = {}
    for source_name, name, datamodule in built:
        key = name if uses[name] == 1 else f"{source_name}/{name}"
        if key in datamodules:
            msg = f"{argument}: the class {key!r} is given twice. Leave one out, or name it with class_name."
            raise DatasetError(msg)
        datamodules[key] = datamodule
    return datamodules


def prepare(datamodule: AnomalibDataModule) -> None:
    """Let a datamodule write what it needs, but not download.

    The classes of anomalib download whatever is not in place, so with a mistyped folder they would fetch gigabytes.
    They are only asked to prepare what is there, as Visa does, which applies its split. Classes of other packages may
    create their data.

    Args:
        datamodule: One of :func:`build_datamodules`.
    """
    root = _root(datamodule)
    in_place = root is not None and (root / datamodule.category).is_dir()
    if in_place or not _is_anomalibs(type(datamodule)):
        datamodule.prepare_data()


def read_parts(class_name: str, datamodule: AnomalibDataModule, argument: str) -> dict[str, AnomalibDataset]:
    """Set a datamodule up.

    Args:
        class_name: Its class name, for errors.
        datamodule: One of :func:`build_datamodules`.
        argument: Name of the argument that gave it, for errors.

    Returns:
        Its ``train``, ``val`` and ``test`` datasets, as far as it has them.

    Raises:
        DatasetError: If the datamodule cannot read its files.
    """
    if not hasattr(datamodule, "test_data"):
        try:
            datamodule.setup()
        except Exception as error:  # whatever a datamodule raises, the user needs to know which one it was
            msg = (
                f"{argument}: {type(datamodule).__name__} cannot read class {class_name!r} in "
                f"{_root(datamodule)}: {error} Check that the dataset is complete and that its folders "
                f"are as {type(datamodule).__name__} expects."
            )
            raise DatasetError(msg) from error
    # The test loader knows best what is tested on: MVTecAD2 has several sets.
    parts = {"train": getattr(datamodule, "train_data", None), "val": getattr(datamodule, "val_data", None)}
    return {
        **{split: part for split, part in parts.items() if part is not None},
        "test": datamodule.test_dataloader().dataset,
    }


def _find_class(name: str, where: str) -> type[AnomalibDataModule]:
    known = {cls.__name__: cls for cls in _subclasses(AnomalibDataModule)}  # type: ignore[type-abstract]
    found: Any = getattr(anomalib.data, name, None) or known.get(name)
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError as error:
            msg = f"{where}.datamodule={name!r}: {error}. Install the package or correct the name."
            raise DatasetError(msg) from error
    if not (inspect.isclass(found) and issubclass(found, AnomalibDataModule) and not inspect.isabstract(found)):
        available = ", ".join(sorted(name for name, cls in known.items() if not inspect.isabstract(cls)))
        msg = f"{where}.datamodule={name!r}: there is no such datamodule. Available: {available}."
        raise DatasetError(msg)
    if issubclass(found, AnomalibVideoDataModule):
        msg = f"{where}.datamodule={name!r}: holds videos. Give a datamodule of images."
        raise DatasetError(msg)
    return found


def _subclasses(cls: type[AnomalibDataModule]) -> Iterable[type[AnomalibDataModule]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _build_source(
    source: DataSource, cls: type[AnomalibDataModule], where: str
) -> list[tuple[str, AnomalibDataModule]]:
    parameters = inspect.signature(cls).parameters
    given = dict(source.options or {})
    if "category" in given:
        msg = f"{where}.options: has category={given['category']!r}. Give it as categories."
        raise DatasetError(msg)
    if source.root is not None:
        given["root"] = str(source.root)
    if "num_workers" in parameters:
        given.setdefault("num_workers", 0)  # its own loaders are not used
    if "seed" in parameters and parameters["seed"].default is None:
        # Random splits belong to the data: they are the same in every process, and in a run with another seed.
        given.setdefault("seed", 0)

    has_categories = "category" in parameters
    if source.categories is not None and not has_categories:
        msg = f"{where}.categories={source.categories}: {cls.__name__} has no categories. Leave them out."
        raise DatasetError(msg)
    probe = _construct(cls, given, where)
    if _is_anomalibs(cls):
        _check_root(probe, where)
    if not has_categories:
        return [(source.class_name or probe.name, probe)]
    categories = _choose_categories(source, probe, where)
    if source.class_name is not None and len(categories) > 1:
        msg = f"{where}.class_name={source.class_name!r}: names one class, but there are {len(categories)} categories."
        raise DatasetError(msg)
    return [(source.class_name or name, _construct(cls, {**given, "category": name}, where)) for name in categories]


def _construct(cls: type[AnomalibDataModule], arguments: dict[str, Any], where: str) -> AnomalibDataModule:
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        msg = f"{where}: {error}. {cls.__name__} takes {', '.join(inspect.signature(cls).parameters)}."
        raise DatasetError(msg) from error


def _check_root(datamodule: AnomalibDataModule, where: str) -> None:
    root = _root(datamodule)
    if root is not None and not root.is_dir():
        name = type(datamodule).__name__
        msg = (
            f"{where}.root: there is no folder {root}. Give the folder that holds {name}; if you do not have the "
            f"dataset yet, fetch it with {name}(root=...).prepare_data() or from its home page."
        )
        raise DatasetError(msg)


def _choose_categories(source: DataSource, datamodule: AnomalibDataModule, where: str) -> list[str]:
    cls, root = type(datamodule), _root(datamodule)
    known = _known_categories(cls)
    # Classes of other packages may create their categories; those of anomalib must find them.
    creates = not _is_anomalibs(cls)
    found = (_default_categories(cls) or known) if creates and known else _categories_on_disk(root, known)
    wanted = found if source.categories is None else source.categories
    if not wanted:
        msg = (
            f"{where}.categories: none given and none found in {root}, which holds {_listing(_folders(root))}. "
            "Correct root or name the categories."
        )
        raise DatasetError(msg)
    # Some classes keep no folder for a category; then only reading shows what is there.
    available = (known or wanted) if creates else found or known
    if missing := [name for name in wanted if name not in available]:
        msg = f"{where}.categories: {_listing(missing)} not found in {root}. Available: {_listing(available)}."
        raise DatasetError(msg)
    return list(wanted)


def _known_categories(cls: type[AnomalibDataModule]) -> list[str]:
    """The category names a dataset's card, module or package lists, sorted; empty if none does."""
    if (card := _card(cls)) is not None:
        return sorted(card.categories)
    module = cls.__module__
    for name in (module, module.replace(".datamodules.", ".datasets."), module.rpartition(".")[0]):
        try:
            contents = vars(importlib.import_module(name))
        except ImportError:
            continue
        for constant in sorted((key for key in contents if key.endswith("CATEGORIES")), key=len):
            return sorted(contents[constant])
    return []


def _default_categories(cls: type[AnomalibDataModule]) -> list[str]:
    """Of several settings that which stands for the whole dataset, such as one-vs-all; empty without such a choice."""
    card = _card(cls)
    return [] if card is None else sorted(card.default_categories)


def _card(cls: type[AnomalibDataModule]) -> DatasetCard | None:
    raw = getattr(cls, "raw", None)
    return raw.card if isinstance(raw, RawDataset) else None


def _categories_on_disk(root: Path | None, known: list[str]) -> list[str]:
    """Known categories with a folder in root or one below, and folders laid out as in MVTec AD under other names."""
    folders = _folders(root)
    below = {folder: _folders(root / folder) for folder in folders} if root else {}
    names = {*folders, *(name for inner in below.values() for name in inner)}
    return sorted({*(set(known) & names), *(folder for folder, inner in below.items() if "train" in inner)})


def _root(datamodule: AnomalibDataModule) -> Path | None:
    root = getattr(datamodule, "root", None)
    return None if root is None else Path(root)


def _folders(root: Path | None) -> list[str]:
    """Folders directly in root, sorted; not hidden ones, which unfinished work and tools leave."""
    if root is None or not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _listing(names: list[str]) -> str:
    return ", ".join(names) or "no folders"


def _is_anomalibs(cls: type[AnomalibDataModule]) -> bool:
    return cls.__module__.partition(".")[0] == "anomalib"
