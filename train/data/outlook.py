"""What a run will read, told before it starts: tokens, repetitions, and what is too little of something."""

from collections.abc import Iterator

from conf.duration import format_duration
from conf.plural import plural
from conf.schedule import count_steps
from conf.schema import Settings
from train.data.mixture import samples_read
from train.data.prepare import PreparedData
from train.data.stage_time import stage_seconds

MOST_EPOCHS = 4  # beyond, repeated tokens are worth less and less than new ones (Muennighoff et al. 2023)
FEWEST_VALIDATION_DOCUMENTS = 10


def outlook(settings: Settings, data: PreparedData) -> Iterator[str]:
    """A line for each stage, with the epochs of each corpus; a line that begins with `warning: ` for what is odd."""
    length = settings.model.context_length
    packed = data.training(settings)
    epoch = {key: len(samples) for key, samples in packed.items()}
    for key, files in data.corpora.items():
        if files.validation_documents < FEWEST_VALIDATION_DOCUMENTS:
            yield (
                f"warning: corpus {key} has {files.validation_documents} validation "
                f"{plural('document', files.validation_documents)}, too few to tell models apart; "
                "give more documents, or raise data.validation_fraction or data.validation_bytes"
            )
    for name, stage in count_steps(settings, epoch).stages.items():
        read = samples_read(stage, stage.steps * stage.global_batch_size)
        total = sum(read.values()) or 1
        parts = ", ".join(
            f"{key} {samples * length:,} ({samples / total:.0%}, {samples / epoch[key]:.2f} epochs)"
            for key, samples in read.items()
        )
        padding = sum(samples * packed[key].padding for key, samples in read.items()) / total
        padded = f", {padding:.2%} of them padding" if padding else ""
        found = stage_seconds(settings, name, stage)
        takes = f"; about {format_duration(found[0])} ({found[1]})" if found else ""
        yield f"data: stage {name} reads {sum(read.values()) * length:,} tokens{padded}: {parts}{takes}"
        for key, samples in read.items():
            if samples > MOST_EPOCHS * epoch[key]:
                lower = f"stages.{name}.steps" if len(read) == 1 else f"its weight in stages.{name}.mixture"
                yield (
                    f"warning: stage {name} reads corpus {key} {samples / epoch[key]:.1f} times; beyond {MOST_EPOCHS} "
                    f"times repeated text is worth little: give more, or lower {lower}"
                )
