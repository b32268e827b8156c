"""The public names, one import each; `flax_bigbird` hands them on when they are first used."""

from flax_bigbird._shipped import shipped_models as shipped_models
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
from flax_bigbird.models.language import FlaxBigBirdForCausalLM as FlaxBigBirdForCausalLM
from flax_bigbird.models.language import (
    FlaxBigBirdForCausalLMModule as FlaxBigBirdForCausalLMModule,
)
from flax_bigbird.models.language import FlaxBigBirdForMaskedLM as FlaxBigBirdForMaskedLM
from flax_bigbird.models.language import (
    FlaxBigBirdForMaskedLMModule as FlaxBigBirdForMaskedLMModule,
)
from flax_bigbird.models.language import FlaxBigBirdForPreTraining as FlaxBigBirdForPreTraining
from flax_bigbird.models.language import (
    FlaxBigBirdForPreTrainingModule as FlaxBigBirdForPreTrainingModule,
)
from flax_bigbird.models.positions import resize_position_embeddings as resize_position_embeddings
from flax_bigbird.models.question_answering import (
    FlaxBigBirdForQuestionAnswering as FlaxBigBirdForQuestionAnswering,
)
from flax_bigbird.models.question_answering import (
    FlaxBigBirdForQuestionAnsweringModule as FlaxBigBirdForQuestionAnsweringModule,
)
