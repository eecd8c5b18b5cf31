"""Text and sound: transformers' own architectures at one or two layers, and an LSTM."""

from typing import Any

import torch
from torch import nn

from .base import VOCABULARY, Built, ids, padding_mask

_WIDTHS: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
}


def bert(batch: int) -> Built:
    from transformers import BertConfig, BertModel

    config = BertConfig(num_hidden_layers=2, max_position_embeddings=32, **_WIDTHS)
    return BertModel(config), (ids(batch), padding_mask(batch)), {}


def minilm(batch: int) -> Built:
    """MiniLM-L6 is a BERT 384 wide, here of 96: no pooler, heads of 32."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        num_hidden_layers=1,
        hidden_size=96,
        num_attention_heads=3,
        intermediate_size=192,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
    )
    return BertModel(config, add_pooling_layer=False), (ids(batch), padding_mask(batch)), {}


def distilbert(batch: int) -> Built:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        n_layers=1,
        dim=64,
        n_heads=4,
        hidden_dim=128,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
    )
    return DistilBertModel(config), (ids(batch),), {}


def roberta(batch: int) -> Built:
    """Positions are counted from the tokens that are no padding (a cumulative sum)."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(num_hidden_layers=1, max_position_embeddings=34, **_WIDTHS)
    words = ids(batch) + 1
    words[-1, 8:] = config.pad_token_id
    words = words.clamp(max=VOCABULARY - 1)
    return RobertaForSequenceClassification(config), (words, padding_mask(batch)), {}


def albert(batch: int) -> Built:
    """One layer's weights used twice."""
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        num_hidden_layers=2, embedding_size=32, max_position_embeddings=32, **_WIDTHS
    )
    return AlbertModel(config), (ids(batch), padding_mask(batch)), {}


def t5_encoder(batch: int) -> Built:
    """Relative positions as a learnt bias of the attention, RMS norms, no biases."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        num_layers=1, d_model=64, d_kv=16, d_ff=128, num_heads=4, vocab_size=VOCABULARY
    )
    return T5EncoderModel(config), (ids(batch), padding_mask(batch)), {}


def clip_text(batch: int) -> Built:
    """Causal, quick GELU, the answer taken at the end-of-text token."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        num_hidden_layers=1,
        max_position_embeddings=32,
        eos_token_id=VOCABULARY - 1,
        bos_token_id=0,
        **_WIDTHS,
    )
    return CLIPTextModel(config), (ids(batch),), {}


def gpt2(batch: int) -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1,
        n_embd=64,
        n_head=4,
        vocab_size=VOCABULARY,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config), (ids(batch),), {"use_cache": False}


def llama(batch: int) -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=1, num_key_value_heads=2, max_position_embeddings=32, **_WIDTHS
    )
    return LlamaForCausalLM(config), (ids(batch),), {"use_cache": False}


def llama_masked(batch: int) -> Built:
    """The same with padding: mask and causality are joined outside of the attention."""
    model, args, kwargs = llama(batch)
    return model, (*args, padding_mask(batch)), kwargs


def whisper_encoder(batch: int) -> Built:
    """Two 1-D convolutions over mel bins [batch, 16, 48], the second of stride 2, then layers."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        encoder_layers=1,
        d_model=64,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        num_mel_bins=16,
        max_source_positions=24,
    )
    return WhisperEncoder(config), (torch.randn(batch, 16, 48),), {}


def _wav2vec2(batch: int, **settings: Any) -> Built:
    """Convolutions over the wave, a grouped one for positions (weight-normalised), then layers."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        num_hidden_layers=1,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 2),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_feat_extract_layers=3,
        **_WIDTHS,
        **settings,
    )
    return Wav2Vec2Model(config), (torch.randn(batch, 600),), {}


def wav2vec2(batch: int) -> Built:
    """The base model: a group norm after the first convolution."""
    return _wav2vec2(batch)


def wav2vec2_stable(batch: int) -> Built:
    """The large model: layer norms after every convolution, norms before the layers."""
    return _wav2vec2(batch, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)


class Tagger(nn.Module):
    """Embedding, a two-way LSTM, a label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
        self.label = nn.Linear(64, 9)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.label(self.lstm(self.embed(ids))[0])


def lstm(batch: int) -> Built:
    return Tagger(), (ids(batch),), {}


def mlp(batch: int) -> Built:
    layers = nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
    )
    return layers, (torch.randn(3 * batch + 1, 32),), {}


class Causal(nn.Module):
    """A residual layer of a temporal convolutional network (arXiv:1803.01271)."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
        self.first = nn.Conv1d(inputs, outputs, 3, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, dilation=dilation)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(self.pad(x)).relu()
        y = self.second(self.pad(y)).relu()
        return (y + self.skip(x)).relu()


def tcn(batch: int) -> Built:
    """Dilated causal 1-D convolutions; the answer is the last step's."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(Causal(8, 24, 1), Causal(24, 24, 2), Causal(24, 32, 4))
            self.head = nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(x)[:, :, -1])

    return Network(), (torch.randn(batch, 8, 40),), {}


BUILDERS = (
    bert,
    minilm,
    distilbert,
    roberta,
    albert,
    t5_encoder,
    clip_text,
    gpt2,
    llama,
    llama_masked,
    whisper_encoder,
    wav2vec2,
    wav2vec2_stable,
    lstm,
    mlp,
    tcn,
)
