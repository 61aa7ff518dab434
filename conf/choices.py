"""The settings with a fixed set of values."""

from enum import Enum

IGNORE_INDEX = -100  # label of a token that does not count in the loss, as in torch's cross_entropy
# of a document in CodeGen2's form beside its own: two <mask_1>, <sep>, <eom>, an eos inside and one before
INFILL_TOKENS = 6


class Precision(Enum):
    """Number format of weights and activations."""

    auto = "auto"  # bf16 on a CUDA device that has it, fp32 elsewhere; resolved once at start-up and logged
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    fp8 = "fp8"  # bf16, and the blocks' products in fp8


class Finetune(Enum):
    """Which weights are trained."""

    full = "full"  # all
    lora = "lora"  # adapters of low rank on the blocks' products (arXiv 2106.09685), beside frozen weights


class Sandbox(Enum):
    """What the programs that a model wrote must be shut off by."""

    full = "full"  # namespaces, a filter of system calls and limits; where the kernel gives no namespaces, none runs
    limits_only = "limits_only"  # where it gives none, the filter and the limits alone


class Schedule(Enum):
    """Learning-rate schedule."""

    cosine = "cosine"  # linear warm-up, cosine to the end rate, then flat: the paper's
    wsd = "wsd"  # linear warm-up, stable at the peak, linear decay to the end rate


class Handover(Enum):
    """What a stage takes from its parent."""

    weights = "weights"  # fresh optimizer, step 0, new schedule, new data: the paper's
    full = "full"  # the optimizer's state goes along


class Decay(Enum):
    """Which parameters weight decay applies to."""

    matrices = "matrices"  # every tensor of two or more dimensions
    jaxformer = "jaxformer"  # all but the final LayerNorm and the head's bias, as the paper's code did


class Recompute(Enum):
    """Activations that the backward pass recomputes."""

    none = "none"
    selective = "selective"  # the activations that are large and cheap to make again
    full = "full"  # every block is run again in the backward pass


class Balance(Enum):
    """The cost that is balanced when layers are cut into pipeline stages."""

    flops = "flops"
    parameters = "parameters"
    time = "time"  # measured at start-up


class Offload(Enum):
    """What is kept in host memory."""

    none = "none"
    optimizer = "optimizer"
    parameters = "parameters"  # the optimizer's state goes along


class Source(Enum):
    """Where a corpus comes from."""

    local = "local"
    files = "files"
    hub = "hub"
    git = "git"


READ_BY_PATH = (Source.files, Source.git)  # sources that `paths` names


class OnError(Enum):
    """What happens to a document that cannot be read."""

    fail = "fail"
    skip = "skip"


class Dedup(Enum):
    """Which documents are the same."""

    exact = "exact"  # equal SHA-256 of the text: the paper's
    minhash = "minhash"  # and near duplicates: equal bands of MinHash signatures


class Packing(Enum):
    """How documents become samples of the context's length."""

    concat = "concat"  # one after another, cut where a sample ends: the paper's
    best_fit = "best_fit"  # whole, the rest of a sample is padding; only those longer than a sample are cut


class Objective(Enum):
    """What training documents look like."""

    causal = "causal"  # as they are
    infill = "infill"  # some with a span taken out and put after them, as CodeGen2's


class InfillUnit(Enum):
    """What the span of an infilling document begins and ends with."""

    token = "token"  # any token
    line = "line"  # whole lines, as an editor asks for them


class ClusterKind(Enum):
    """Who starts the processes."""

    local = "local"
    hostfile = "hostfile"
    slurm = "slurm"


class RemoteShell(Enum):
    """How DeepSpeed's launcher reaches the hosts of a hostfile."""

    pdsh = "pdsh"
    ssh = "ssh"


class ExportForm(Enum):
    """Class of transformers that an exported folder is for."""

    codegen = "codegen"  # CodeGenForCausalLM
    gptj = "gptj"  # GPTJForCausalLM, for engines that serve GPT-J and not CodeGen
    peft = "peft"  # PEFT's: a run's adapters, without the weights that they adapt


class Quantize(Enum):
    """Number format of an export's matrices."""

    int4 = "int4"  # GPTQ, with a scale a group of inputs


class QuantizeFrozen(Enum):
    """Number format of the matrices that adapters are trained beside, with a scale a block of inputs."""

    int8 = "int8"  # steps of equal size
    nf4 = "nf4"  # QLoRA's 4 bits (arXiv 2305.14314): the quantiles of a normal distribution


class KernelForm(Enum):
    """Form of an operation."""

    auto = "auto"
    reference = "reference"


class NormForm(Enum):
    """Form of LayerNorm."""

    auto = "auto"  # the fastest by measurement: triton on a GPU, torch elsewhere
    torch = "torch"
    triton = "triton"
    apex = "apex"


class ApexForm(Enum):
    """Form of an operation that apex has one of."""

    torch = "torch"
    apex = "apex"


class FusedForm(Enum):
    """Form of an operation that has one in Triton."""

    auto = "auto"  # the faster by measurement: triton on a GPU, torch elsewhere
    torch = "torch"
    triton = "triton"


class OnBad(Enum):
    """What is done about several steps in a row that could not be taken."""

    rewind = "rewind"  # back to the last checkpoint, passing over their samples
    stop = "stop"


class OnSpike(Enum):
    """What is done about a spike of the loss or of the gradient norm."""

    record = "record"
    rewind = "rewind"
