// @ts-check
/** Arithmetic of the grid: the largest tiles that let everybody be seen, and how a picture is cut to its tile. */

/** Smaller tiles show no face any more: then the grid scrolls. */
const TILE_MIN = { width: 120, height: 90 };
/** Share of a wide picture that an upright tile shows at least: people sit in the middle of it. */
const VISIBLE_WIDTH_MIN = 0.56;
/** Share of an upright picture that a wide tile shows at least: a face may be in its upper part. */
const VISIBLE_HEIGHT_MIN = 0.8;

/**
 * @param {number} count
 * @param {{ width: number, height: number, gap: number }} space `gap`: between tiles.
 * @param {boolean} isWide Whether most of the pictures are wider than high.
 * @returns {{ width: number, height: number, scrolls: boolean }} Of one tile, and whether there is no room for all.
 */
export function tileSize(count, { width, height, gap }, isWide) {
  // A face may be cut to a portrait on a phone that is held upright, and to a square in a narrow column; of a wide
  // picture that would be too little. One alone may have the whole of the space.
  const upright = isWide ? 1 : count === 1 ? 9 / 16 : 3 / 4;
  const [narrowest, widest] = width < height ? [upright, 16 / 9] : [1, 16 / 9];
  let best = { width: 0, height: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const room = { width: (width - gap * (columns - 1)) / columns, height: (height - gap * (rows - 1)) / rows };
    const tile = {
      width: Math.min(room.width, room.height * widest),
      height: Math.min(room.height, room.width / narrowest),
    };
    if (tile.width * tile.height > best.width * best.height) best = tile;
  }
  const scrolls = count > 1 && (best.width < TILE_MIN.width || best.height < TILE_MIN.height);
  if (scrolls) {
    const columns = Math.max(1, Math.min(count, Math.floor((width + gap) / (TILE_MIN.width + gap))));
    best.width = (width - gap * (columns - 1)) / columns;
    best.height = Math.max(TILE_MIN.height, best.width * (3 / 4));
  }
  // Rounded down: half a pixel too many would push a tile into another row.
  return { width: Math.max(0, Math.floor(best.width)), height: Math.max(0, Math.floor(best.height)), scrolls };
}

/**
 * The box that a picture fills, cut at its edges: the whole tile where enough of the picture is left, and else as much of
 * the tile as shows enough.
 * @param {number} picture Width by height.
 * @param {number} tile Width by height.
 * @returns {{ width: number, height: number }} Shares of the tile.
 */
export function pictureBox(picture, tile) {
  if (tile < picture) return { width: 1, height: Math.min(1, tile / (picture * VISIBLE_WIDTH_MIN)) };
  return { width: Math.min(1, picture / (VISIBLE_HEIGHT_MIN * tile)), height: 1 };
}
