#!/usr/bin/env bash
# What a few minutes of one GPU are for, as commands that are documented elsewhere, many at a time.
#
#     scripts/gpu_session.sh pack                here, with a network: wheels, phantoms and pictures into $SESSION
#     scripts/gpu_session.sh setup prove         there: install, then every bundle for a few steps in auto and float16
#     scripts/gpu_session.sh setup train         there: the papers' settings, evaluated; float16 weights and logs to $OUT
#     scripts/gpu_session.sh setup benchmark     there: milliseconds per window, pictures per second, seconds per CT
#
# Several steps may follow each other. benchmarks/README.md says more. Variables, with their defaults:
#
#     SESSION=gpu            folder that travels: wheels/, data/ and what setup installs
#     OUT=$SESSION/out       what comes back: logs, scores, weights; no picture and no checkpoint
#     DEVICE=cuda            cpu to try it where there is none
#     JOBS=4                 trainings at a time;  WORKERS=4  loader workers of each
#     MINUTES=8              of each training, which is then interrupted, and its best weights are evaluated
#     BUNDLES                which of them to prove (default: all six)
#     MEDSEG3D_DATA          folder of real images, for pack
#     SMOKE=1                seconds of everything with tiny settings: says that the commands work, and nothing else
set -euo pipefail
set -m  # jobs of their own process groups, which an interrupt reaches: without it bash lets them ignore it
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SESSION=${SESSION:-gpu} DEVICE=${DEVICE:-cuda} JOBS=${JOBS:-4} WORKERS=${WORKERS:-4} MINUTES=${MINUTES:-8} SMOKE=${SMOKE:-}
mkdir -p "$SESSION/runs"
SESSION=$(cd "$SESSION" && pwd)
OUT=${OUT:-$SESSION/out}
DATA=$SESSION/data
BUNDLES=${BUNDLES:-pancreas_nl pancreas_nl_2d polyp_resunetpp polyp_deeplabv3plus polyp_ann polyp_cris}
export PYTHONPATH=$SESSION/site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$OUT/logs" "$OUT/benchmarks"

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }

# config FILE BUNDLE OVERLAY...: what --config_file takes
config() {
    local file=$1 bundle=$2 list overlay
    list="'bundles/$bundle/$file.json'"
    for overlay in "${@:3}"; do list+=",'bundles/$bundle/$overlay.json'"; done
    printf '[%s]' "$list"
}

# limited COMMAND...: interrupted when its minutes are over
limited() { timeout --foreground -s INT -k 30 "$((60 * MINUTES))" "$@"; }

# job NAME COMMAND...: in the background once fewer than $JOBS are; how it ended is printed, and its log kept
job() {
    local name=$1
    shift
    while (($(jobs -rp | wc -l) >= JOBS)); do wait -n || true; done
    (
        code=0 start=$SECONDS
        "$@" >"$OUT/logs/$name.log" 2>&1 </dev/null || code=$?
        say "$name: exit $code after $((SECONDS - start)) s: $(grep -v '^$' "$OUT/logs/$name.log" | tail -n 1 | cut -c1-200)"
        exit $code
    ) &
}

# finish: wait for every job; how many failed is the status
finish() {
    local failed=0 process
    for process in $(jobs -p); do wait "$process" || failed=$((failed + 1)); done
    return $((failed > 0))
}

pack() {
    rm -rf "$DATA" "$SESSION/wheels"
    mkdir -p "$DATA"
    python -m pip download --quiet --no-deps --constraint constraints.txt --dest "$SESSION/wheels" \
        monai pytorch-ignite nibabel fire termcolor importlib_resources
    # made here: drawing them takes SimpleITK, which the image lacks
    python -m medseg3d phantom "$DATA/phantom_pancreas" --num-cases 6 --test-images 0
    python -m medseg3d phantom "$DATA/phantom_polyps" --kind polyp --num-cases 12
    if [[ ${MEDSEG3D_DATA:-} && ! $SMOKE ]]; then
        python scripts/pack_pictures.py "$MEDSEG3D_DATA/kvasir-seg" "$DATA/Kvasir-SEG" # whose split is committed
        python scripts/pack_pictures.py "$MEDSEG3D_DATA/nih-pancreas-2d" "$DATA/nih-pancreas-2d"
        mkdir -p "$DATA/nih-pancreas-ct"
        cp -r "$MEDSEG3D_DATA/nih-pancreas-ct/small" "$DATA/nih-pancreas-ct/"
    fi
    du -sh "$SESSION"/*
}

setup() {
    if [[ -d $SESSION/wheels ]]; then
        python -m pip install --quiet --no-index --no-deps --upgrade --target "$SESSION/site" "$SESSION"/wheels/*
    fi
    if [[ $DEVICE == cuda ]]; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
    python -m medseg3d version
}

prove() {
    local bundle precision data jobs=$JOBS steps=10
    if [[ $SMOKE ]]; then steps=1; fi
    if [[ $DEVICE == cuda ]]; then JOBS=12; fi # all at once: they take less memory than the card has
    for bundle in $BUNDLES; do
        data=phantom_polyps
        [[ $bundle == pancreas* ]] && data=phantom_pancreas
        for precision in auto float16; do
            job "prove_${bundle}_$precision" limited python -m monai.bundle run training --config_file "$(config train "$bundle" phantom)" \
                --dataset_dir "$DATA/$data" --split_file "$DATA/$data/split.json" \
                --output_dir "$SESSION/runs/prove_${bundle}_$precision" --overwrite true \
                --device "$DEVICE" --precision "$precision" --epochs 1 --iterations_per_epoch $steps \
                --num_workers 0 --val_interval 1
        done
    done
    JOBS=$jobs
    finish
}

# training NAME BUNDLE OVERLAYS WORDS...: trained until it ends or its time is over, then judged where the weights are
training() {
    local name=$1 bundle=$2 overlays=$3 run=$SESSION/runs/$1 code=0
    shift 3
    # shellcheck disable=SC2086 # overlays are words
    limited python -m monai.bundle run training \
        --config_file "$(config train "$bundle" $overlays)" --output_dir "$run" --device "$DEVICE" \
        --num_workers "$WORKERS" --tensorboard_images 0 "$@" || code=$?
    if ((code != 0 && code != 124)); then return $code; fi
    # shellcheck disable=SC2086
    python -m monai.bundle run evaluating --config_file "$(config evaluate "$bundle" $overlays)" \
        --output_dir "$run" --device "$DEVICE" "$@" &&
        python scripts/ship_weights.py "$run" "$OUT/$name/model.safetensors" --any-size &&
        mkdir -p "$OUT/$name/evaluation_test" && cp "$run/config.json" "$OUT/$name/" &&
        find "$run/evaluation_test" -maxdepth 1 -type f -not -name '*.png' -exec cp -t "$OUT/$name/evaluation_test" {} +
}

# ablation WORDS...: as far as its time goes; the same command goes on
ablation() {
    local folder=$SESSION/runs/ablation code=0
    limited python -m medseg3d ablation bundles/pancreas_nl_2d --config-overlay image_folder -o "$folder" --jobs 3 \
        --device "$DEVICE" --num_workers "$WORKERS" "$@" || code=$?
    mkdir -p "$OUT/ablation"
    cp "$folder"/ablation.* "$folder"/*.png "$OUT/ablation/"
    return $code
}

train() {
    local polyps=(--dataset_dir "$DATA/Kvasir-SEG") slices=(--dataset_dir "$DATA/nih-pancreas-2d")
    local square="[256,256]" wide="[256,512]" side=256 filters=32 runs=(--blocks 0 2 4 --seeds 0 1 2)
    if [[ $SMOKE ]]; then
        local few=(--epochs 1 --iterations_per_epoch 1 --batch_size 2 --val_interval 1 --test_cases 2 --val_cases 2)
        polyps=(--dataset_dir "$DATA/phantom_polyps" --split_file "$DATA/split.json" "${few[@]}")
        slices=("${polyps[@]}" --group_pattern "")
        square="[64,64]" wide="[32,64]" side=64 filters=8 runs=(--blocks 0 2 --seeds 0)
    else
        slices+=(--split_file "$DATA/nih-pancreas-2d/split.json")
    fi
    job resunetpp training resunetpp polyp_resunetpp "" --batch_size 16 --learning_rate 0.0005 --picture_size "$square" \
        "${polyps[@]}"
    job ablation ablation "${runs[@]}" --picture_size "$side" --init_filters "$filters" "${slices[@]}"
    job deeplabv3plus training deeplabv3plus polyp_deeplabv3plus "" --picture_size "$square" "${polyps[@]}"
    job asymmetric training asymmetric polyp_ann "" --picture_size "$wide" "${polyps[@]}"
    finish
}

benchmark() {
    local window=() polyp=() ct=(--ct small) loader=(--pictures "$DATA/Kvasir-SEG")
    export MEDSEG3D_DATA=$DATA
    if [[ $SMOKE ]]; then
        window=(--edge 16 --passes 1 --filters 8 --batches 1)
        polyp=(--networks unet --batch-size 1)
        ct=(--phantom --spacing 8 8 8 --roi-size 32 32 32 --init-filters 8)
        loader=(--pictures "$DATA/phantom_polyps" --cases 4 --samples 16 --sizes 32)
    fi
    # one after the other: they measure
    local jobs=$JOBS
    JOBS=1
    job window limited python benchmarks/window.py --device "$DEVICE" --repeats 3 \
        --output "$OUT/benchmarks/window.md" "${window[@]}"
    job polyp_inference limited python benchmarks/polyp_inference.py --devices "$DEVICE" --repeats 3 \
        --batch-size 8 --output "$OUT/benchmarks/polyp_inference.md" "${polyp[@]}"
    job ct_to_mask limited python benchmarks/ct_to_mask.py --device "$DEVICE" --repeats 3 \
        --output "$OUT/benchmarks/ct_to_mask.md" "${ct[@]}"
    job loader limited python benchmarks/loader.py --repeats 3 --workers "$WORKERS" --volumes 0 \
        --output "$OUT/benchmarks/loader.md" "${loader[@]}"
    JOBS=$jobs
    finish
}

trap 'for process in $(jobs -p); do kill -INT -- "-$process" 2>/dev/null || true; done' EXIT
if (($# == 0)); then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 2
fi
for step in "$@"; do
    case $step in
    pack | setup | prove | train | benchmark)
        say "$step"
        "$step"
        ;;
    *)
        echo "unknown step $step: pack, setup, prove, train or benchmark" >&2
        exit 2
        ;;
    esac
done
say "done; what is to be kept lies in $OUT"
