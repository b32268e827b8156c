"""BigBird, the long-document transformer, for JAX and Flax.

The public names are loaded on first access, so that `import flax_bigbird` and the command's
`--help` do not wait for JAX and Flax.
"""

from typing import TYPE_CHECKING

from flax_bigbird import _lazy
from flax_bigbird._version import __version__ as __version__

if TYPE_CHECKING:
    from flax_bigbird import attention as attention
    from flax_bigbird import inference as inference
    from flax_bigbird import models as models
    from flax_bigbird import tasks as tasks
    from flax_bigbird import train as train
    from flax_bigbird.config import SparsityConfig as SparsityConfig
    from flax_bigbird.models.attention_maps import AttentionMap as AttentionMap
    from flax_bigbird.models.attention_maps import bigbird_attention_map as bigbird_attention_map
    from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel as FlaxBigBirdPreTrainedModel
    from flax_bigbird.models.bert import FlaxBigBirdModel as FlaxBigBirdModel
    from flax_bigbird.models.bert import FlaxBigBirdModule as FlaxBigBirdModule
    from flax_bigbird.models.classification import (
        FlaxBigBirdForMultipleChoice as FlaxBigBirdForMultipleChoice,
    )
    from flax_bigbird.models.classification import (
        FlaxBigBirdForMultipleChoiceModule as FlaxBigBirdForMultipleChoiceModule,
    )
    from flax_bigbird.models.classification import (
        FlaxBigBirdForSequenceClassification as FlaxBigBirdForSequenceClassification,
    )
    from flax_bigbird.models.classification import (
        FlaxBigBirdForSequenceClassificationModule as FlaxBigBirdForSequenceClassificationModule,
    )
    from flax_bigbird.models.classification import (
        FlaxBigBirdForTokenClassification as FlaxBigBirdForTokenClassification,
    )
    from flax_bigbird.models.classification import (
        FlaxBigBirdForTokenClassificationModule as FlaxBigBirdForTokenClassificationModule,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForCausalLM as FlaxBigBirdForCausalLM,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForCausalLMModule as FlaxBigBirdForCausalLMModule,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForMaskedLM as FlaxBigBirdForMaskedLM,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForMaskedLMModule as FlaxBigBirdForMaskedLMModule,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForPreTraining as FlaxBigBirdForPreTraining,
    )
    from flax_bigbird.models.language_modeling import (
        FlaxBigBirdForPreTrainingModule as FlaxBigBirdForPreTrainingModule,
    )
    from flax_bigbird.models.outputs import FlaxBeamSearchOutput as FlaxBeamSearchOutput
    from flax_bigbird.models.outputs import (
        FlaxBigBirdForPreTrainingOutput as FlaxBigBirdForPreTrainingOutput,
    )
    from flax_bigbird.models.outputs import (
        FlaxBigBirdForQuestionAnsweringModelOutput as FlaxBigBirdForQuestionAnsweringModelOutput,
    )
    from flax_bigbird.models.outputs import FlaxBigBirdModelOutput as FlaxBigBirdModelOutput
    from flax_bigbird.models.outputs import FlaxCausalLMOutput as FlaxCausalLMOutput
    from flax_bigbird.models.outputs import FlaxGenerationOutput as FlaxGenerationOutput
    from flax_bigbird.models.outputs import FlaxMaskedLMOutput as FlaxMaskedLMOutput
    from flax_bigbird.models.outputs import (
        FlaxMultipleChoiceModelOutput as FlaxMultipleChoiceModelOutput,
    )
    from flax_bigbird.models.outputs import (
        FlaxSequenceClassifierOutput as FlaxSequenceClassifierOutput,
    )
    from flax_bigbird.models.outputs import FlaxTokenClassifierOutput as FlaxTokenClassifierOutput
    from flax_bigbird.models.outputs import ModelOutput as ModelOutput
    from flax_bigbird.models.position_embeddings import (
        resize_position_embeddings as resize_position_embeddings,
    )
    from flax_bigbird.models.question_answering import (
        FlaxBigBirdForQuestionAnswering as FlaxBigBirdForQuestionAnswering,
    )
    from flax_bigbird.models.question_answering import (
        FlaxBigBirdForQuestionAnsweringModule as FlaxBigBirdForQuestionAnsweringModule,
    )
    from flax_bigbird.models.token_embeddings import (
        resize_token_embeddings as resize_token_embeddings,
    )
    from flax_bigbird.pretrained import shipped_models as shipped_models
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
